package collector

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/sockdiag"
)

func TestNodeGolden(t *testing.T) {
	const s = time.Second
	// Equal addresses in two pods of one name, and a pod without a name.
	busy := fakeKernel{flows: []sockdiag.Flow{
		flow("0.0.0.0:8080", "0.0.0.0:0", state(sockdiag.Listen)),
		flow("10.0.0.1:8080", "10.9.9.9:41000"),
		flow("10.0.0.1:40000", "10.0.0.2:5432", idle(90*s, 70*s, s), timer(sockdiag.TimerKeepalive, 0)),
		flow("10.0.0.1:40001", "10.0.0.2:5432", idle(7200*s, 7200*s, s), queues(1, 2)),
		flow("10.0.0.1:40002", "10.0.0.2:5432", state(sockdiag.TimeWait)),
	}}
	quiet := fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:40000", "10.0.0.2:5432", idle(9000*s, 9000*s, s))}}
	mptcpKernel := fakeKernel{flows: []sockdiag.Flow{
		flow("10.0.0.1:40000", "10.0.0.3:80", mptcp(1, 0, 1), inode(100)),
		flow("10.0.0.1:40000", "10.0.0.3:80", subflow(1, 0), inode(100), idle(2*s, 2*s, s)),
	}}
	broken := fakeKernel{flows: quiet.flows, tcpErr: sockdiag.ErrInterrupted}
	tests := []struct {
		name   string
		config Config
		node   *fakeNode
	}{
		{name: "empty", node: &fakeNode{}},
		{name: "pods", config: Config{Histograms: Histograms()}, node: &fakeNode{
			counts: Found{Node: 1, Other: 2, HostNetwork: 3, Unnamed: 1},
			pods: []*fakePod{
				{namespace: "prod", name: "web-0", kernel: busy},
				{namespace: "test", name: "web-0", kernel: quiet},
				{uid: "0b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b", kernel: mptcpKernel},
				{namespace: "test", name: "idle"},
				{namespace: "test", name: "ended", enterErr: os.ErrNotExist},
				{namespace: "test", name: "failed", kernel: broken},
			},
		}},
		{name: "other", config: Config{Node: &NodeConfig{MaxDestinationsPerPod: 1}}, node: &fakeNode{pods: []*fakePod{
			{namespace: "prod", name: "web-0", kernel: fakeKernel{flows: []sockdiag.Flow{
				flow("10.0.0.1:40000", "10.0.0.2:80"), flow("10.0.0.1:40001", "10.0.0.2:80"), flow("10.0.0.1:40002", "10.0.0.3:80"),
				flow("10.0.0.1:1", "10.9.9.9:40000"), flow("10.0.0.1:1", "10.9.9.9:40001"), flow("10.0.0.1:2", "10.9.9.9:40000"),
			}}},
			{namespace: "prod", name: "web-1", kernel: quiet},
		}}},
		{name: "find_failed", node: &fakeNode{findErr: os.ErrPermission}},
	}
	served := make(map[string]bool) // families
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			golden(t, "node/"+tt.name, newNodeTest(t, tt.config, tt.node), served)
		})
	}
	for _, f := range families(Histograms(), true) {
		if !served[f.Name] {
			t.Errorf("no golden file has the family %s", f.Name)
		}
	}
}

// A destination of a pod has 15 series, and one more for each further state.
func TestNodeSeries(t *testing.T) {
	for want, states := range map[int][]sockdiag.State{
		15: {sockdiag.Established},
		16: {sockdiag.Established, sockdiag.TimeWait},
		17: {sockdiag.Established, sockdiag.TimeWait, sockdiag.CloseWait},
	} {
		p := &fakePod{namespace: "prod", name: "web-0"}
		for i, s := range states {
			p.kernel.flows = append(p.kernel.flows, flow(fmt.Sprintf("10.0.0.1:%d", 40000+i), "10.0.0.2:80", state(s)))
		}
		c := newNodeTest(t, Config{}, &fakeNode{pods: []*fakePod{p}})
		n := 0
		for line := range strings.Lines(scrape(t, c)) {
			if strings.Contains(line, `destination="10.0.0.2",`) {
				n++
				if !strings.Contains(line, `namespace="prod",pod="web-0",`) {
					t.Error(line)
				}
			}
		}
		if n != want {
			t.Errorf("%d series with sockets in %d states, want %d", n, len(states), want)
		}
	}
}

// The histograms have the bounds that the rules and the dashboard select.
func TestNodeBounds(t *testing.T) {
	used := 0
	for _, file := range []string{"../deploy/rules.yml", "../deploy/dashboard.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:le=~\\?"|histogram_fraction\()([0-9]+)`).FindAllSubmatch(text, -1) {
			used++
			seconds, err := strconv.Atoi(string(m[1]))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(nodeDetail.bounds, time.Duration(seconds)*time.Second) {
				t.Errorf("%s selects the bound %d", file, seconds)
			}
		}
	}
	if used < 4 {
		t.Errorf("%d bounds in rules and dashboard", used)
	}
	for _, d := range nodeDetail.bounds {
		if !slices.Contains(idleBuckets[:], d) {
			t.Errorf("%v is not one of the counted bounds", d)
		}
	}
}

func TestShare(t *testing.T) {
	tests := []struct {
		sizes       []int
		bound, want int
	}{
		{nil, 10, 0},
		{[]int{3, 5}, 8, 5},
		{[]int{5, 3}, 7, 4},
		{[]int{20, 20, 20, 1}, 31, 10},
		{[]int{20, 20, 20, 1}, 33, 10},
		{[]int{20, 20, 20, 1}, 34, 11},
		{[]int{1, 1, 1}, 2, 0},
		{[]int{0, 0, 7}, 5, 5},
		{[]int{2, 2, 9}, 5, 1},
	}
	for _, tt := range tests {
		sum := func(limit int) (n int) {
			for _, size := range tt.sizes {
				n += min(size, limit)
			}
			return n
		}
		got := share(tt.sizes, tt.bound)
		if got != tt.want {
			t.Errorf("%v in %d: %d, want %d", tt.sizes, tt.bound, got, tt.want)
		}
		if all := sum(1 << 20); sum(got) > tt.bound || sum(got) < all && sum(got+1) <= tt.bound {
			t.Errorf("%v in %d: %d keeps %d, one more %d", tt.sizes, tt.bound, got, sum(got), sum(got+1))
		}
	}
}

// manyDestinations returns sockets to n destinations: two to the first one, one to each other.
func manyDestinations(n int) fakeKernel {
	k := fakeKernel{flows: []sockdiag.Flow{flow("10.0.0.1:50000", numbered(0).String())}}
	for i := range n {
		k.flows = append(k.flows, flow(fmt.Sprintf("10.0.0.1:%d", 40000+i), numbered(i).String()))
	}
	return k
}

// The limit of the node takes from the pods with the most destinations. The kept and the
// folded ones of a pod are all its sockets.
func TestNodeLimit(t *testing.T) {
	n := &fakeNode{pods: []*fakePod{
		{namespace: "a", name: "small", kernel: manyDestinations(2)},
		{namespace: "a", name: "large", kernel: manyDestinations(30)},
		{namespace: "b", name: "large", kernel: manyDestinations(9)},
	}}
	c := newNodeTest(t, Config{MaxDestinations: 13, Node: &NodeConfig{MaxDestinationsPerPod: 8}}, n)
	for range 3 { // hysteresis does not change it
		s, err := c.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kept, sockets := make(map[string]int), make(map[string]int)
		for _, d := range s.Destinations {
			pod := d.Namespace + "/" + d.Pod
			sockets[pod] += d.Sockets
			if !d.Other() {
				kept[pod]++
			}
		}
		if diff := cmp.Diff(map[string]int{"a/small": 2, "a/large": 5, "b/large": 5}, kept); diff != "" {
			t.Errorf("kept (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int{"a/small": 3, "a/large": 31, "b/large": 10}, sockets); diff != "" {
			t.Errorf("sockets (-want +got):\n%s", diff)
		}
		if s.Folded != 25+4 {
			t.Errorf("%d folded", s.Folded)
		}
	}
	body := scrape(t, c)
	want := []string{
		`destinations_folded{namespace="a",pod="large"} 25`,
		`destinations_folded{namespace="a",pod="small"} 0`,
		`destinations_folded{namespace="b",pod="large"} 4`,
	}
	if diff := cmp.Diff(want, linesOf(body, "destinations_folded{")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(n.pods[1].kernel.flows) != 31 || len(c.node.pods[1001].outbound.kept) != 5 {
		t.Errorf("%d destinations are preferred in the next scan", len(c.node.pods[1001].outbound.kept))
	}
}

func TestNodeConfigRejects(t *testing.T) {
	find := func() (Found, error) { return Found{}, nil }
	for want, config := range map[string]Config{
		"function":     {Node: &NodeConfig{}},
		"observer":     {Observer: &recorder{}, Node: &NodeConfig{Find: find}},
		"per pod: -1":  {Node: &NodeConfig{Find: find, MaxDestinationsPerPod: -1}},
		"time: -1s":    {Node: &NodeConfig{Find: find, Budget: -time.Second}},
		"maximum of d": {MaxDestinations: -1, Node: &NodeConfig{Find: find}},
	} {
		if _, err := New(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	// Without a budget, limits and state are those of the documentation.
	c, err := New(Config{StateDirectory: t.TempDir(), Node: &NodeConfig{Find: find}})
	if err != nil {
		t.Fatal(err)
	}
	if c.node.limit != DefaultMaxNodeDestinations || c.aggregator.destinations.limit != DefaultMaxDestinationsPerPod || c.state != "" {
		t.Errorf("limits %d and %d, state %q", c.node.limit, c.aggregator.destinations.limit, c.state)
	}
}

// Listeners come with the flows in one dump. A listener after other sockets fails the
// namespace, and the next ones are dumped first.
func TestNodeListeners(t *testing.T) {
	inOrder := fakeKernel{flows: []sockdiag.Flow{
		flow("0.0.0.0:8080", "0.0.0.0:0", state(sockdiag.Listen)),
		flow("10.0.0.1:8080", "10.9.9.9:80"),
	}}
	late := fakeKernel{flows: []sockdiag.Flow{inOrder.flows[1], inOrder.flows[0]}}
	n := &fakeNode{pods: []*fakePod{
		{namespace: "a", name: "one", kernel: inOrder}, {namespace: "a", name: "two", kernel: late}, {namespace: "a", name: "three", kernel: late},
	}}
	c := newNodeTest(t, Config{}, n)
	c.mptcpInUse = func() bool { return false }
	result := func() []string {
		return linesOf(scrape(t, c), "inbound_sockets{", `sockets{`, `node_namespaces{result="f`)
	}
	want := []string{
		`inbound_sockets{namespace="a",pod="one",port="8080",state="established"} 1`,
		`inbound_sockets{namespace="a",pod="three",port="8080",state="established"} 1`,
		`node_namespaces{result="failed"} 1`,
	}
	if diff := cmp.Diff(want, result()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n.ports.Load() != 2 { // the first namespace needs none
		t.Errorf("%d reads of the ephemeral ports, want 2", n.ports.Load())
	}
	want = slices.Insert(want, 2, `inbound_sockets{namespace="a",pod="two",port="8080",state="established"} 1`)
	want[3] = `node_namespaces{result="failed"} 0`
	if diff := cmp.Diff(want, result()); diff != "" {
		t.Errorf("next scan (-want +got):\n%s", diff)
	}
}

// The ephemeral ports are read where the direction of a flow depends on them.
func TestNodeEphemeralPorts(t *testing.T) {
	n := &fakeNode{pods: []*fakePod{{namespace: "a", name: "one", kernel: fakeKernel{flows: []sockdiag.Flow{
		flow("10.0.0.1:7070", "10.9.9.9:41002", state(sockdiag.TimeWait)),
		flow("10.0.0.1:41002", "10.9.9.9:7070", state(sockdiag.TimeWait)),
	}}}}}
	c := newNodeTest(t, Config{}, n)
	c.mptcpInUse = func() bool { return false }
	got := linesOf(scrape(t, c), `inbound_sockets{namespace="a",pod="one",port="7070",state="t`, `sockets{destination="10.9.9.9",namespace="a",pod="one",port="7070",state="t`)
	if len(got) != 2 || n.ports.Load() != 1 {
		t.Errorf("%d reads, %q", n.ports.Load(), got)
	}
	c.ephemeralPorts = func() (sockdiag.PortRange, error) { return sockdiag.PortRange{}, errors.New("broken") }
	if got := linesOf(scrape(t, c), "sockets{", "inbound_sockets{", "node_namespaces{result=\"failed"); !slices.Equal(got, []string{`node_namespaces{result="failed"} 1`}) {
		t.Errorf("ephemeral ports cannot be read: %q", got)
	}
}
