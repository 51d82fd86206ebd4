package collector

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

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

// An abandoned read that returns during the scan has no effect on it: neither its flows, nor its
// result, nor its listeners, which are those of another pod.
func TestNodeAbandonedReturns(t *testing.T) {
	n := &fakeNode{pods: manyPods(4)}
	n.pods[1].kernel.flows = []sockdiag.Flow{
		flow("0.0.0.0:40000", "0.0.0.0:0", state(sockdiag.Listen)),
		flow("10.0.0.1:40001", "10.0.0.3:80"),
	}
	endless := make(chan struct{}) // until the context of the read ends
	n.pods[1].kernel.wait = endless
	observed := make(map[string]int)
	c := newNodeTest(t, Config{Node: &NodeConfig{Observer: countingObserver(observed)}}, n)
	c.node.blocked.Limit = 50 * time.Millisecond
	release, find := make(chan struct{}), c.node.Find
	c.node.Find = func() (Found, error) {
		found, err := find()
		blocks, next := found.Pods[1].Do, found.Pods[2].Do
		found.Pods[1].Do = func(open func() error) error { <-release; return blocks(open) }
		found.Pods[2].Do = func(open func() error) error {
			close(release)
			nstest.Eventually(t, "the read has returned", func() bool { return !c.node.blocked.Has(1001) })
			return next(open)
		}
		return found, err
	}
	body := scrape(t, c)
	if diff := cmp.Diff(map[string]int{"p0": 1, "p2": 1, "p3": 1}, observed); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
	got := slices.DeleteFunc(linesOf(body, "node_namespaces", "inbound_sockets{"), func(l string) bool { return strings.HasSuffix(l, " 0") })
	if diff := cmp.Diff([]string{`node_namespaces{result="failed"} 1`, `node_namespaces{result="read"} 3`}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c.node.stateOf(1001) != nil {
		t.Error("the state that the abandoned read has changed is kept")
	}
	if c.node.reader.aggregator.observe != nil {
		t.Error("the reader keeps the scan")
	}
}

// A scan that lists idle times lists them also after a blocked pod.
func TestNodeBlockedSnapshot(t *testing.T) {
	n := &fakeNode{pods: manyPods(3)}
	c := newNodeTest(t, Config{}, n)
	c.node.blocked.Limit = 50 * time.Millisecond
	release, find := make(chan struct{}), c.node.Find
	c.node.Find = func() (Found, error) {
		found, err := find()
		do := found.Pods[1].Do
		found.Pods[1].Do = func(open func() error) error { <-release; return do(open) }
		return found, err
	}
	c.node.reader.aggregator.listIdle = true
	r := c.scanNode(t.Context())
	close(release)
	if len(r.destinations) != 2 {
		t.Fatalf("%d destinations", len(r.destinations))
	}
	for _, s := range r.destinations {
		if len(s.idleTimes) != 1 {
			t.Errorf("idle times of %v: %v", s.pod, s.idleTimes)
		}
	}
}

// A thread that reads no pod waits for a processor: no pod has blocked it.
func TestTurnIdle(t *testing.T) {
	n := &fakeNode{pods: manyPods(1)}
	c := newNodeTest(t, Config{}, n)
	found, err := n.find()
	if err != nil {
		t.Fatal(err)
	}
	s := &nodeScan{Collector: c, partial: make(map[hangup.PodName]bool), result: &result{node: new(nodeResult)}}
	turn := &turn{scan: s, reader: c.node.reader}
	turn.pods, _ = c.node.update(found.Pods, s.kind())
	if turn.abandon(nil) {
		t.Error("abandoned before the first pod")
	}
	if !turn.begin(t.Context()) || !turn.end(turn.read(t.Context())) || s.result.node.counts.Read != 1 {
		t.Errorf("%+v", s.result.node.counts)
	}
	if turn.abandon(nil) {
		t.Error("abandoned after the last pod")
	}
}

// Pods without flows show progress.
func TestNodeProgress(t *testing.T) {
	n := &fakeNode{pods: manyPods(3)}
	for _, p := range n.pods {
		p.kernel.flows = nil
	}
	c := newNodeTest(t, Config{}, n)
	scrape(t, c)
	if got := c.node.reader.progress.Load(); got != 3 {
		t.Errorf("progress %d after 3 pods", got)
	}
}

// A thread that could not enter a namespace enters no other one, and the connections of the flows
// of pods are prepared on a thread that has entered none.
func TestNodeThreads(t *testing.T) {
	n := &fakeNode{pods: manyPods(5)}
	n.pods[1].enterErr = os.ErrNotExist // before it was entered
	n.pods[2].enterErr = os.ErrPermission
	c := newNodeTest(t, Config{}, n)
	var threads []int // by pod
	find, newReader := c.node.Find, c.node.newReader
	c.node.Find = func() (Found, error) {
		found, err := find()
		for i, do := range found.Pods {
			found.Pods[i].Do = func(open func() error) error {
				threads = append(threads, unix.Gettid())
				return do.Do(open)
			}
		}
		return found, err
	}
	var prepared atomic.Int32
	c.node.newReader = func() *reader {
		prepared.Add(1)
		if slices.Contains(threads, unix.Gettid()) {
			t.Error("reader of a thread that has entered a namespace")
		}
		return newReader()
	}
	check := func(kind string) {
		t.Helper()
		if len(threads) != 5 || threads[0] != threads[1] || threads[1] != threads[2] || threads[2] == threads[3] || threads[3] != threads[4] {
			t.Errorf("%s: threads %v", kind, threads)
		}
		threads = nil
	}
	if got := podsIn(scrape(t, c)); !slices.Equal(got, []string{"p0", "p3", "p4"}) {
		t.Errorf("pods %q", got)
	}
	check("scrape")
	response, _ := getFlows(t, c.FlowsHandler(), "")
	if diff := cmp.Diff(map[string]int{"read": 3, "failed": 1, "ended": 1}, response.Namespaces); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
	if check("flows"); prepared.Load() != 2 {
		t.Errorf("%d readers", prepared.Load())
	}
}

// Each pod is counted once and has its own flows alone, whatever read is abandoned and when it
// returns.
func TestNodeTurns(t *testing.T) {
	const pods, scrapes = 20, 30
	n := &fakeNode{}
	for i := range pods {
		p := &fakePod{namespace: "a", name: fmt.Sprintf("p%d", i)}
		for j := range i%3 + 1 {
			p.kernel.flows = append(p.kernel.flows, flow(fmt.Sprintf("10.0.0.1:%d", 40000+j), fmt.Sprintf("10.1.0.%d:80", i)))
		}
		n.pods = append(n.pods, p)
	}
	var observed map[string]int
	c := newNodeTest(t, Config{Node: &NodeConfig{Observer: observerFunc(func(p *hangup.Pod, f *sockdiag.Flow) {
		if want := "10.1.0." + p.Name[1:] + ":80"; f.Remote.String() != want {
			t.Errorf("observed %v of %s", f.Remote, p.Name)
		}
		observed[p.Name]++
	})}}, n)
	c.node.blocked.Limit = 4 * time.Millisecond
	find := c.node.Find
	c.node.Find = func() (Found, error) {
		found, err := find()
		for i, ns := range found.Pods {
			found.Pods[i].Do = func(open func() error) error {
				if rand.IntN(8) == 0 {
					time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond) // the kernel
				}
				return ns.Do(open)
			}
		}
		return found, err
	}
	failed := 0
	for range scrapes {
		observed = make(map[string]int)
		body := scrape(t, c)
		counts := make(map[string]int)
		for _, l := range linesOf(body, "node_namespaces") {
			var n int
			result, number, _ := strings.Cut(strings.TrimPrefix(l, `node_namespaces{result="`), `"} `)
			if _, err := fmt.Sscan(number, &n); err != nil {
				t.Fatal(l, err)
			}
			counts[result] = n
		}
		failed += counts["failed"]
		read := podsIn(body)
		if counts["read"]+counts["failed"] != pods || len(read) != counts["read"] || len(slices.Compact(read)) != len(read) {
			t.Fatalf("%v, read %q", counts, read)
		}
		established := linesOf(body, "sockets{")
		for _, name := range read {
			var i int
			if _, err := fmt.Sscanf(name, "p%d", &i); err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf(`sockets{destination="10.1.0.%d",namespace="a",pod="p%d",port="80",state="established"} %d`, i, i, i%3+1)
			if !slices.Contains(established, want) || observed[name] != i%3+1 {
				t.Errorf("observed %d, no %s in\n%s", observed[name], want, strings.Join(established, "\n"))
			}
		}
	}
	for i := range uint64(pods) {
		nstest.Eventually(t, "the read has returned", func() bool { return !c.node.blocked.Has(1000 + i) })
	}
	t.Logf("%d of %d reads abandoned", failed, pods*scrapes)
}

// observerFunc observes the flows of pods.
type observerFunc func(*hangup.Pod, *sockdiag.Flow)

func (o observerFunc) ObservePods() (func(*hangup.Pod, *sockdiag.Flow), func(bool) []prometheus.Metric) {
	return o, func(bool) []prometheus.Metric { return nil }
}
