package server

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"tcphup/services"
	"tcphup/test/kit/docs"
	"tcphup/test/kit/nstest"
)

// cost is a number of series, and the number where Prometheus stores each classic
// histogram as one native histogram.
type cost struct{ Classic, Native int }

func (c cost) plus(n int, other cost) cost {
	return cost{c.Classic + n*other.Classic, c.Native + n*other.Native}
}

// costOf returns the number of series of a metric.
func costOf(m *dto.Metric) cost {
	switch {
	case m.GetHistogram() != nil:
		buckets := m.GetHistogram().GetBucket()
		n := len(buckets) + 2 // _sum and _count
		if !slices.ContainsFunc(buckets, func(b *dto.Bucket) bool { return math.IsInf(b.GetUpperBound(), 1) }) {
			n++ // encoded without being listed
		}
		return cost{n, 1}
	case m.GetSummary() != nil:
		n := len(m.GetSummary().GetQuantile()) + 2
		return cost{n, n}
	default:
		return cost{1, 1}
	}
}

// Kinds of series. ofMPTCP are the additional series of a destination with MPTCP.
const (
	ofDestination = "destination"
	ofMPTCP       = "mptcp"
	ofPort        = "port"
	ofService     = "service"
	ofPolicy      = "policy"
	ofPod         = "pod"
	ofTcphup      = "tcphup"
	ofRuntime     = "runtime"
)

// kindOf returns the kind of a series.
func kindOf(name string, m *dto.Metric) string {
	has := func(label string) bool {
		return slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == label })
	}
	switch {
	case !strings.HasPrefix(name, "tcphup_"):
		return ofRuntime
	case strings.HasPrefix(name, "tcphup_mptcp_"):
		return ofMPTCP
	case has("destination"):
		return ofDestination
	case has("port"):
		return ofPort
	case has("service"):
		return ofService
	case has("policy"):
		return ofPolicy
	case has("pod"):
		return ofPod
	default:
		return ofTcphup
	}
}

// costsOf returns the number of series by kind.
func costsOf(families []*dto.MetricFamily) map[string]cost {
	costs := make(map[string]cost)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			kind := kindOf(f.GetName(), m)
			costs[kind] = costs[kind].plus(1, costOf(m))
		}
	}
	return costs
}

// costOfService has the series of a service with former addresses in use.
var costOfService = cost{8, 8}

// costOfRuntime is about the number of series of the Go runtime and the process, which
// depends on the Go version.
var costOfRuntime = cost{50, 50}

// documentedCosts returns the number of series of each single destination, port, service
// and policy, and of tcphup itself. It needs no sockets.
func documentedCosts(t *testing.T) map[string]cost {
	t.Helper()
	one := costsOf(gather(t, testServer(t, Options{}).registry))
	costs := map[string]cost{
		ofDestination: goldenCosts(t, "timers", "destination", "10.0.0.2")[ofDestination],
		ofMPTCP:       goldenCosts(t, "mptcp_pathless_alone", "destination", "10.0.0.2")[ofMPTCP],
		ofPort:        goldenCosts(t, "directions", "port", "9090")[ofPort],
		ofService:     costOfService,
		ofPolicy:      one[ofPolicy],
		ofTcphup:      one[ofTcphup],
		ofRuntime:     costOfRuntime,
	}
	// The collector is no part of the registry, and tcphup_method_usable follows the self-test.
	scan := costsOf(readMetrics(t, "../collector/testdata/empty.prom"))
	costs[ofTcphup] = costs[ofTcphup].plus(1, scan[ofTcphup]).plus(2, cost{1, 1})
	return costs
}

// goldenCosts returns the number of series with a label in a golden file of the collector.
func goldenCosts(t *testing.T, name, label, value string) map[string]cost {
	t.Helper()
	families := readMetrics(t, "../collector/testdata/"+name+".prom")
	for _, f := range families {
		f.Metric = slices.DeleteFunc(f.Metric, func(m *dto.Metric) bool {
			return !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == label && l.GetValue() == value })
		})
	}
	return costsOf(families)
}

// The sidecar of the example in docs/metrics.md.
const (
	exampleDestinations = 5
	examplePorts        = 2
	examplePolicies     = 2 // a service adds an embedded policy
)

// The series on /metrics are as many as documented, for the sidecar of the example.
func TestPrivilegedSeries(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var destinations []netip.AddrPort
		for i := range examplePorts {
			port := listen(t)
			for host := i; host < exampleDestinations; host += examplePorts {
				to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + host)}), port)
				conn, err := net.Dial("tcp", to.String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.Close() })
				destinations = append(destinations, to)
			}
		}
		state := t.TempDir()
		writeServiceState(t, state, destinations[0].Addr())
		x := testServer(t, Options{
			Services:       []services.Service{{Name: "db.internal", Port: destinations[0].Port()}},
			StateDirectory: state,
		})
		x.runSelfTest(t.Context())
		var served []*dto.MetricFamily
		// A scrape has no sockets if the kernel interrupts its dump.
		nstest.Eventually(t, "a scrape with all sockets", func() bool {
			served = scrape(t, x)
			return costsOf(served)[ofDestination] != cost{}
		})
		for _, f := range served {
			f.Metric = slices.DeleteFunc(f.Metric, func(m *dto.Metric) bool { return ofSelfTest(m, destinations) })
		}
		want := documentedCosts(t)
		want[ofDestination] = cost{}.plus(exampleDestinations, want[ofDestination])
		want[ofPort] = cost{}.plus(examplePorts, want[ofPort])
		want[ofPolicy] = cost{}.plus(examplePolicies, want[ofPolicy])
		delete(want, ofMPTCP)
		got := costsOf(served)
		if n := got[ofRuntime].Classic; n < costOfRuntime.Classic-10 || n > costOfRuntime.Classic+10 {
			t.Errorf("%d series of the Go runtime and the process, documented are about %d", n, costOfRuntime.Classic)
		}
		got[ofRuntime] = costOfRuntime
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-documented +served):\n%s", diff)
		}
	})
}

// ofSelfTest reports whether a metric is about a connection of the self-test.
func ofSelfTest(m *dto.Metric, destinations []netip.AddrPort) bool {
	labels := make(map[string]string)
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	port, ok := labels["port"]
	return ok && !slices.ContainsFunc(destinations, func(d netip.AddrPort) bool {
		return port == strconv.Itoa(int(d.Port())) && (labels["destination"] == "" || labels["destination"] == d.Addr().String())
	})
}

// listen returns the port of a listener on all addresses, without MPTCP.
func listen(t *testing.T) uint16 {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().(*net.TCPAddr).AddrPort().Port()
}

// seriesTable returns the table of the number of series.
func seriesTable(t *testing.T) string {
	t.Helper()
	costs := documentedCosts(t)
	all := goldenCosts(t, "times", "destination", "10.0.0.2")[ofDestination] // all histograms
	sidecar := costs[ofTcphup].plus(1, costs[ofRuntime]).plus(examplePolicies, costs[ofPolicy]).plus(1, costs[ofService]).
		plus(exampleDestinations, costs[ofDestination]).plus(examplePorts, costs[ofPort])
	row := func(what string, c cost) []string { return []string{what, thousands(c.Classic), thousands(c.Native)} }
	return docs.Table([]string{"", "series", "with native histograms"}, [][]string{
		row("a destination", costs[ofDestination]),
		row("a destination, with `--collector.histograms=idle,age,peer_silence`", all),
		row("a destination of MPTCP connections, in addition", costs[ofMPTCP]),
		row("an inbound port", costs[ofPort]),
		row("a watched service, at most", costs[ofService]),
		row("a policy", costs[ofPolicy]),
		row("tcphup itself", costs[ofTcphup]),
		row("the Go runtime and the process, about", costs[ofRuntime]),
		row(fmt.Sprintf("a sidecar with %d destinations, %d inbound ports, a service and the %d embedded policies", exampleDestinations, examplePorts, examplePolicies), sidecar),
		row("1,000 such sidecars", cost{1000 * sidecar.Classic, 1000 * sidecar.Native}),
	})
}

// The agent of the example in docs/metrics.md.
const examplePods = 100

// costOfPodService has the series of a service for a pod with sockets to former addresses.
var costOfPodService = cost{3, 3}

// nodeSeriesTable returns the table of the number of series in node mode.
func nodeSeriesTable(t *testing.T) string {
	t.Helper()
	pod := goldenCosts(t, "node/other", "pod", "web-1") // has one destination
	port := goldenCosts(t, "node/pods", "port", "8080")[ofPort]
	costs := documentedCosts(t)
	empty := func(name string) cost {
		return costsOf(readMetrics(t, "../collector/testdata/"+name+".prom"))[ofTcphup]
	}
	agent := costs[ofTcphup].plus(1, empty("node/empty")).plus(-1, empty("empty"))
	service := costs[ofService].plus(-1, costOfPodService)
	example := agent.plus(1, costs[ofRuntime]).plus(1, service).plus(examplePolicies, costs[ofPolicy]).
		plus(examplePods, pod[ofPod].plus(exampleDestinations, pod[ofDestination]).plus(examplePorts, port).plus(1, costOfPodService))
	row := func(what string, c cost) []string { return []string{what, thousands(c.Classic), thousands(c.Native)} }
	return docs.Table([]string{"", "series", "with native histograms"}, [][]string{
		row("a destination of a pod", pod[ofDestination]),
		row("an inbound port of a pod", port),
		row("a pod, in addition", pod[ofPod]),
		row("a watched service", service),
		row("a watched service, for each pod with a socket to it, at most", costOfPodService),
		row("the agent itself", agent),
		row(fmt.Sprintf("an agent with %d pods, each with %d destinations, %d inbound ports and sockets to one service, and %d policies",
			examplePods, exampleDestinations, examplePorts, examplePolicies), example),
	})
}

// thousands formats a number with separators.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
