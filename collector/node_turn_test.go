package collector

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// A read that does not return delays only the scan that began it. The namespace counts as failed
// until the read has returned, which has no effect on later scans.
func TestNodeBlocked(t *testing.T) {
	n := &fakeNode{pods: manyPods(3)}
	blocked, observed := n.pods[1], make(map[string]int)
	c := newNodeTest(t, Config{Node: &NodeConfig{Observer: countingObserver(observed)}}, n)
	c.node.blocked.Limit = 50 * time.Millisecond
	var entered atomic.Int32
	release, find := make(chan struct{}), c.node.Find
	c.node.Find = func() (Found, error) {
		found, err := find()
		do := found.Pods[1].Do
		found.Pods[1].Do = func(open func() error) error {
			entered.Add(1)
			<-release
			return do(open)
		}
		return found, err
	}
	check := func(entries int32, results ...string) {
		t.Helper()
		clear(observed)
		body := scrape(t, c)
		want := []string{"p0", "p2"}
		if len(results) == 1 {
			want = []string{"p0", "p1", "p2"}
		}
		if got := podsIn(body); !slices.Equal(got, want) || len(observed) != len(want) {
			t.Errorf("pods %q, observed %v, want %q", got, observed, want)
		}
		got := slices.DeleteFunc(linesOf(body, "node_namespaces"), func(l string) bool { return l[len(l)-2:] == " 0" })
		if diff := cmp.Diff(results, got); diff != "" || entered.Load() != entries {
			t.Errorf("entered %d times, want %d (-want +got):\n%s", entered.Load(), entries, diff)
		}
	}
	one := []string{`node_namespaces{result="failed"} 1`, `node_namespaces{result="read"} 2`}
	check(1, one...)
	if c.node.reader == &c.reader {
		t.Error("the reader of the blocked read is used again")
	}
	check(1, one...)
	close(release)
	nstest.Eventually(t, "the read has returned", func() bool { return !c.node.blocked.Has(1001) })
	if len(observed) != 2 || blocked.kernel.closed != 1 {
		t.Errorf("observed %v after the scan, closed %d", observed, blocked.kernel.closed)
	}
	check(2, `node_namespaces{result="read"} 3`)
}

// A read that proceeds is not abandoned.
func TestAwaitProgress(t *testing.T) {
	n, x, returned := &node{blocked: sockdiag.BlockedCalls{Limit: 200 * time.Millisecond}}, newPodReader(), make(chan struct{})
	go func() {
		defer close(returned)
		for begun := time.Now(); time.Since(begun) < 5*n.blocked.Limit; {
			x.proceed()
			time.Sleep(time.Millisecond)
		}
	}()
	if !n.blocked.Await(returned, x.progress) {
		t.Error("abandoned")
	}
}

// countingObserver counts the flows of each pod.
type countingObserver map[string]int

func (o countingObserver) ObservePods() (func(*hangup.Pod, *sockdiag.Flow), func(bool) []prometheus.Metric) {
	return func(p *hangup.Pod, _ *sockdiag.Flow) { o[p.Name]++ }, func(bool) []prometheus.Metric { return nil }
}

// A client with little time does not shorten a scan for a client that joins it.
func TestNodeShortTimeout(t *testing.T) {
	var seconds atomic.Int32 // each pod takes one
	c := newNodeTest(t, Config{}, &fakeNode{pods: manyPods(3)})
	finding, joined, find := make(chan struct{}), make(chan struct{}), c.node.Find
	c.node.Find = func() (Found, error) {
		finding <- struct{}{}
		<-joined
		found, err := find()
		for i := range found.Pods {
			do := found.Pods[i].Do
			found.Pods[i].Do = func(open func() error) error { seconds.Add(1); return do(open) }
		}
		return found, err
	}
	now := c.now
	c.now = func() time.Time { return now().Add(time.Duration(seconds.Load()) * time.Second) }
	impatient := make(chan struct{})
	go func() {
		defer close(impatient)
		get(c, "0.2")
	}()
	<-finding
	var body string
	patient := make(chan struct{})
	go func() {
		defer close(patient)
		body = get(c, "10")
	}()
	waiting := func() int {
		c.scans.mu.Lock()
		defer c.scans.mu.Unlock()
		return c.scans.current.waiting
	}
	for waiting() != 1 || !isClosed(impatient) {
		time.Sleep(time.Millisecond)
	}
	close(joined)
	<-patient
	if got := podsIn(body); len(got) != 3 {
		t.Errorf("pods %q", got)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
