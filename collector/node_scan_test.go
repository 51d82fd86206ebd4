package collector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// podsIn returns the names of the pods with series.
func podsIn(exposition string) []string {
	var names []string
	for _, line := range linesOf(exposition, "destinations_folded{") {
		_, rest, _ := strings.Cut(line, `pod="`)
		name, _, _ := strings.Cut(rest, `"`)
		names = append(names, name)
	}
	return names
}

// manyPods returns n pods p0, p1... with one socket each, which cost a second each.
func manyPods(n int) []*fakePod {
	var pods []*fakePod
	for i := range n {
		pods = append(pods, &fakePod{namespace: "a", name: fmt.Sprintf("p%d", i), cost: time.Second, kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.0.0.2:80"),
		}}})
	}
	return pods
}

// A scan ends after its budget. The next one begins with the namespaces that wait longest, and
// those that were not read have no series.
func TestNodeBudget(t *testing.T) {
	n := &fakeNode{pods: manyPods(5)}
	c := newNodeTest(t, Config{Node: &NodeConfig{Budget: 1500 * time.Millisecond}}, n)
	check := func(skipped int, want ...string) {
		t.Helper()
		body := scrape(t, c)
		if diff := cmp.Diff(want, podsIn(body)); diff != "" {
			t.Errorf("pods (-want +got):\n%s", diff)
		}
		line := []string{fmt.Sprintf(`node_namespaces{result="skipped"} %d`, skipped)}
		if diff := cmp.Diff(line, linesOf(body, `node_namespaces{result="skipped"}`)); diff != "" {
			t.Error(diff)
		}
		if got := linesOf(body, "scrape_success"); !slices.Equal(got, []string{`scrape_success{source="mptcp"} 1`, `scrape_success{source="tcp"} 1`}) {
			t.Errorf("a skipped namespace is no failure: %q", got)
		}
	}
	check(3, "p0", "p1")
	check(3, "p2", "p3")
	check(3, "p0", "p4")
	check(3, "p1", "p2")
	// New pods wait for their turn.
	n.pods = append(n.pods, &fakePod{namespace: "a", name: "p5"}, &fakePod{namespace: "a", name: "p6"})
	check(5, "p0", "p3")
	check(5, "p1", "p4")
	check(3, "p0", "p2", "p5", "p6") // two of them cost nothing
	// One that takes too long is read alone.
	for _, p := range n.pods {
		p.cost = time.Minute
	}
	check(6, "p3")
	check(6, "p1")
	// Without a budget all are read, in one scan.
	c.node.Budget = 0
	check(0, "p0", "p1", "p2", "p3", "p4", "p5", "p6")
}

// The scans of the status page do not take the turns of scrapes.
func TestNodeBudgetOfSnapshots(t *testing.T) {
	c := newNodeTest(t, Config{Node: &NodeConfig{Budget: time.Second}}, &fakeNode{pods: manyPods(2)})
	for _, want := range []string{"p0", "p1", "p0", "p1"} {
		if got := podsIn(scrape(t, c)); !slices.Equal(got, []string{want}) {
			t.Errorf("scrape of %q, want %s", got, want)
		}
		s, err := c.Snapshot(t.Context())
		if err != nil || len(s.Destinations) != 1 || s.Destinations[0].Pod != want || *s.Node != (NodeCounts{Read: 1, Skipped: 1}) {
			t.Errorf("snapshot %+v, %v, want %s", s, err, want)
		}
	}
}

// A scrape is answered in time: no namespace is begun late.
func TestNodeDeadline(t *testing.T) {
	n := &fakeNode{pods: manyPods(5)}
	c := newNodeTest(t, Config{}, n)
	now := c.now
	c.now = func() time.Time { return now().Add(time.Duration(n.spent.Load())) }
	for _, want := range [][]string{{"p0", "p1"}, {"p2", "p3"}, {"p0", "p4"}} {
		// Two thirds of 2.5 s: the third one would begin after 2 s.
		if got := podsIn(get(c, "3")); !slices.Equal(got, want) {
			t.Errorf("pods %q, want %q", got, want)
		}
	}
}

// A namespace that ends, cannot be entered or fails in the middle does not affect the others.
func TestNodeFailures(t *testing.T) {
	n := &fakeNode{pods: manyPods(6)}
	n.pods[1].enterErr = os.ErrPermission
	n.pods[2].enterErr = fmt.Errorf("open: %w", os.ErrNotExist)
	n.pods[3].kernel.tcpErr = os.ErrNotExist // of a module, not of the namespace
	n.pods[4].kernel.mptcpErr = sockdiag.ErrInterrupted
	c := newNodeTest(t, Config{}, n)
	check := func(want ...string) {
		t.Helper()
		got := linesOf(scrape(t, c), "node_namespaces", "scrape_success")
		got = slices.DeleteFunc(got, func(l string) bool { return strings.HasPrefix(l, "node_") && strings.HasSuffix(l, " 0") })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if got := podsIn(scrape(t, c)); !slices.Equal(got, []string{"p0", "p4", "p5"}) {
		t.Errorf("series of %q", got)
	}
	check(`node_namespaces{result="ended"} 1`, `node_namespaces{result="failed"} 2`, `node_namespaces{result="read"} 3`,
		`scrape_success{source="mptcp"} 0`, `scrape_success{source="tcp"} 0`)
	n.pods[1], n.pods[2], n.pods[3] = nil, nil, nil
	check(`node_namespaces{result="read"} 3`, `scrape_success{source="mptcp"} 0`, `scrape_success{source="tcp"} 1`)
	if _, err := c.Snapshot(t.Context()); err != nil {
		t.Errorf("snapshot: %v", err)
	}
	n.pods[5].leaveErr = os.ErrNotExist // read, but perhaps not in the namespace
	check(`node_namespaces{result="failed"} 1`, `node_namespaces{result="read"} 2`, `scrape_success{source="mptcp"} 0`, `scrape_success{source="tcp"} 0`)
	n.findErr = os.ErrPermission
	check(`scrape_success{source="mptcp"} 0`, `scrape_success{source="tcp"} 0`)
	if s, err := c.Snapshot(t.Context()); !errors.Is(err, os.ErrPermission) {
		t.Errorf("snapshot without pods: %+v, %v", s, err)
	}
}

// A namespace that fails takes its turn like any other.
func TestNodeFailureTakesTurn(t *testing.T) {
	n := &fakeNode{pods: manyPods(3)}
	n.pods[0].kernel.tcpErr = sockdiag.ErrInterrupted
	c := newNodeTest(t, Config{Node: &NodeConfig{Budget: time.Second}}, n)
	for _, want := range []string{"p1", "p2", "p1"} {
		if got := podsIn(scrape(t, c)); !slices.Equal(got, []string{want}) {
			t.Errorf("scrape of %q, want %s", got, want)
		}
	}
}

// Nothing stays open after a namespace was read.
func TestNodeHoldsNothing(t *testing.T) {
	n := &fakeNode{pods: manyPods(3)}
	n.pods[1].kernel.tcpErr = sockdiag.ErrInterrupted
	c := newNodeTest(t, Config{}, n)
	for range 2 {
		scrape(t, c)
	}
	getFlows(t, c.FlowsHandler(), "")
	for _, p := range n.pods {
		if p.kernel.dialled != 3 || p.kernel.closed != 3 {
			t.Errorf("%s: dialled %d times, closed %d", p.name, p.kernel.dialled, p.kernel.closed)
		}
	}
}

// The first-seen times of a namespace end with it, and with its pod. Those of a namespace that
// was skipped stay.
func TestNodeFirstSeen(t *testing.T) {
	n := &fakeNode{pods: manyPods(2)}
	n.pods[1].cost = 0
	c := newNodeTest(t, Config{}, n)
	seen := n.pods[0].kernel.flows[0]
	seen.Netns = 1000
	young := flow("10.0.0.1:40001", "10.0.0.2:80")
	young.Netns = 1000
	scan := func() {
		t.Helper()
		n.clock += time.Minute
		scrape(t, c)
	}
	check := func(what string, f *sockdiag.Flow, age time.Duration, known bool, youth time.Duration, knownYouth bool) {
		t.Helper()
		first, ok := c.FirstSeen(f)
		if ok != known || ok && c.now().Sub(first).Round(time.Second) != age {
			t.Errorf("%s: first seen %v ago, %t, want %v, %t", what, c.now().Sub(first), ok, age, known)
		}
		after, ok := c.EstablishedAfter(f)
		if ok != knownYouth || ok && c.now().Sub(after).Round(time.Second) != youth {
			t.Errorf("%s: established after %v ago, %t, want %v, %t", what, c.now().Sub(after), ok, youth, knownYouth)
		}
	}
	check("before a scan", &seen, 0, false, 0, false)
	scan()
	check("first scan", &seen, 0, true, 0, false)
	n.clock += time.Second
	check("not seen", &young, 0, false, time.Second, true)
	n.pods[0].kernel.flows = append(n.pods[0].kernel.flows, young)
	scan()
	check("second scan", &seen, 61*time.Second, true, 0, false)
	check("new flow", &young, 0, true, 0, true)
	elsewhere := seen
	elsewhere.Netns = 1001
	check("in another namespace", &elsewhere, 61*time.Second, true, 0, false) // with equal addresses and cookie
	elsewhere.Netns = 0
	check("in no namespace", &elsewhere, 0, false, 0, false)

	// Skipped: p1 is read, p0 waits.
	c.node.Budget = time.Nanosecond
	scan()
	scan()
	check("after skips", &seen, 3*time.Minute+time.Second, true, 0, false)
	c.node.Budget = 0
	scan()
	check("read again", &seen, 4*time.Minute+time.Second, true, 0, false)

	changes := map[string]func(){
		"uid":     func() { n.pods[0].uid = "another" },
		"started": func() { n.pods[0].started = time.Hour },
		"gone": func() {
			p := n.pods[0]
			n.pods[0] = nil
			scan()
			check("gone", &seen, 0, false, 0, false)
			n.pods[0] = p
		},
		"ended": func() {
			n.pods[0].enterErr = os.ErrNotExist
			scan()
			check("ended", &seen, 0, false, 0, false)
			n.pods[0].enterErr = nil
		},
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		scan()
		changes[name]()
		scan()
		check(name, &seen, 0, true, 0, false)
		check(name, &young, 0, true, 0, false)
	}
	// A failure is no end.
	n.pods[0].kernel.tcpErr = sockdiag.ErrInterrupted
	scan()
	check("failed", &seen, time.Minute, true, 0, false)
}

// podRecorder is a NodeObserver that records the observed flows.
type podRecorder struct {
	desc     *prometheus.Desc
	seen     []string
	complete []bool
}

func (w *podRecorder) ObservePods() (func(*hangup.Pod, *sockdiag.Flow), func(bool) []prometheus.Metric) {
	w.seen = nil
	counts := make(map[hangup.PodName]int)
	return func(p *hangup.Pod, f *sockdiag.Flow) {
			w.seen = append(w.seen, p.Name+" "+f.Remote.String())
			counts[p.Labels()]++
		}, func(complete bool) (all []prometheus.Metric) {
			w.complete = append(w.complete, complete)
			for of, n := range counts {
				all = append(all, prometheus.MustNewConstMetric(w.desc, prometheus.GaugeValue, float64(n), of.Namespace, of.Pod))
			}
			return all
		}
}

// The observer receives each flow with its pod. A pod that was not read completely has no
// metrics of it.
func TestNodeObserver(t *testing.T) {
	w := &podRecorder{desc: prometheus.NewDesc("observed", "Flows.", []string{"namespace", "pod"}, nil)}
	n := &fakeNode{pods: manyPods(3)}
	c := newNodeTest(t, Config{Node: &NodeConfig{Observer: w}}, n)
	observed := func() (lines []string) { return linesOf(scrape(t, c), "observed{") }
	all := []string{`observed{namespace="a",pod="p0"} 1`, `observed{namespace="a",pod="p1"} 1`, `observed{namespace="a",pod="p2"} 1`}
	if diff := cmp.Diff(all, observed()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"p0 10.0.0.2:80", "p1 10.0.0.2:80", "p2 10.0.0.2:80"}, w.seen); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
	n.pods[1].kernel.tcpErr = sockdiag.ErrInterrupted // after its flow
	if diff := cmp.Diff([]string{all[0], all[2]}, observed()); diff != "" || len(w.seen) != 3 {
		t.Errorf("after a failure, seen %q (-want +got):\n%s", w.seen, diff)
	}
	n.pods[1].kernel.tcpErr, n.pods[1].enterErr = nil, os.ErrNotExist
	observed()
	n.pods[1].enterErr = nil
	c.node.Budget = time.Second
	observed()
	c.node.Budget = 0
	observed()
	n.findErr = os.ErrPermission
	if got := observed(); got != nil {
		t.Errorf("without pods: %q", got)
	}
	if want := []bool{true, false, false, false, true}; !slices.Equal(w.complete, want) {
		t.Errorf("complete %t, want %t", w.complete, want)
	}
}

// Of two pods with one name, the old one ends. Only the new one has series.
func TestNodeEqualNames(t *testing.T) {
	n := &fakeNode{pods: manyPods(3)}
	for i, p := range n.pods {
		p.name, p.started = "web-0", []time.Duration{time.Hour, 3 * time.Hour, 2 * time.Hour}[i]
		p.kernel.flows = append(p.kernel.flows, slices.Repeat(p.kernel.flows, i)...)
	}
	got := linesOf(scrape(t, newNodeTest(t, Config{}, n)), "sockets{", `node_namespaces{result="read"`, `node_namespaces{result="other"`)
	want := []string{
		`node_namespaces{result="other"} 2`, `node_namespaces{result="read"} 1`,
		`sockets{destination="10.0.0.2",namespace="a",pod="web-0",port="80",state="established"} 2`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A pod with MPTCP connections keeps its own table with their openers; others share one.
func TestNodeTables(t *testing.T) {
	n := &fakeNode{pods: manyPods(3)}
	n.pods[1].kernel.flows = []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.3:80", mptcp(1, 0, 1), inode(100))}
	c := newNodeTest(t, Config{}, n)
	for range 2 {
		scrape(t, c)
		for i, p := range n.pods {
			if own := c.node.pods[uint64(1000+i)].table; (own != nil) != (i == 1) || own == c.node.table {
				t.Errorf("%s has a table of its own: %t", p.name, own != nil)
			}
		}
	}
	n.pods[1].kernel.flows = nil
	scrape(t, c)
	if c.node.pods[1001].table != nil {
		t.Error("the table stays after the connections")
	}
}

// A canceled scan reads no further namespace.
func TestNodeCanceled(t *testing.T) {
	n := &fakeNode{pods: manyPods(3)}
	c := newNodeTest(t, Config{}, n)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := c.scanNode(ctx); r.node.counts.Skipped != 3 {
		t.Errorf("%+v", r.node.counts)
	}
}

// The memory of a node with many destinations is bounded.
func TestNodeMemory(t *testing.T) {
	n := &fakeNode{pods: manyPods(500)}
	for _, p := range n.pods {
		p.kernel = manyDestinations(200)
	}
	c := newNodeTest(t, Config{}, n)
	before := heap()
	for range 2 {
		if s := counted(t, c); s != DefaultMaxNodeDestinations {
			t.Errorf("%d destinations", s)
		}
	}
	if grown := heap() - before; grown > 12<<20 {
		t.Errorf("%d bytes, want at most 12 MiB", grown)
	}
	runtime.KeepAlive(c)
	runtime.KeepAlive(n)
}

// counted returns the number of destinations with series of their own, after a scrape.
func counted(t *testing.T, c *Collector) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(scrape(t, c)) {
		n += toInt(strings.HasPrefix(line, "tcphup_sockets{") && !strings.Contains(line, `"other"`))
	}
	return n
}
