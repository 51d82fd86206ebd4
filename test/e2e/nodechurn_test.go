package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// nodeScrapesVariable is the environment variable with the number of scrapes of
// TestPrivilegedNodeChurn.
const nodeScrapesVariable = "TCPHUP_TEST_NODE_SCRAPES"

// churnPod describes pod i: its names recur, its destination does not.
func churnPod(i int) (s pods.Spec, to netip.AddrPort, flows int) {
	s = pods.Spec{Namespace: "team-" + strconv.Itoa(i%3), Name: "web-" + strconv.Itoa(i%7)}
	to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(i >> 8), byte(i)}), 5432)
	return s, to, 1 + i%3
}

// TestPrivilegedNodeChurn scrapes while pods come and go, with equal names, and with process
// ids and namespaces that are used again. Each destination has the labels of its pod.
func TestPrivilegedNodeChurn(t *testing.T) {
	t.Parallel()
	scrapes := 200
	if text := os.Getenv(nodeScrapesVariable); text != "" {
		var err error
		if scrapes, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		stable := node.Start(pods.Spec{Namespace: "stable", Name: "db-0"})
		stableTo, _, _ := stable.Load(netip.MustParseAddrPort("10.20.0.5:5432"), 5)
		p := serveNode(t, node)

		ctx, stop := context.WithCancel(t.Context())
		var started atomic.Int64
		var churn sync.WaitGroup
		defer churn.Wait()
		defer stop()
		churn.Go(func() {
			n := 0
			node.Churn(ctx, 10, func(i int) pods.Spec {
				s, _, _ := churnPod(i)
				n = i
				return s
			}, func(p *pods.Pod) {
				_, to, flows := churnPod(n)
				app := p.Apps[0]
				listening := app.Call("listen %s %d", to.Addr(), to.Port())
				if got := app.Call("many %s %d %d", to.Addr(), to.Port(), flows); !strings.HasPrefix(listening, "listen ok") || got != fmt.Sprintf("many ok %d", flows) {
					t.Errorf("%v: %s, %s", p, listening, got)
				}
				started.Add(1)
			})
		})

		seen := make(map[string]bool)
		counts := make(map[string]float64)
		for range scrapes {
			metrics, _ := getAs(t, "/metrics", false)
			flows := flowsOf(t, metrics)
			if got := flows["stable/db-0 to "+stableTo.String()]; got != 5 {
				t.Errorf("pod that stays: %d flows", got)
			}
			for flow, n := range flows {
				mustBeOfPod(t, flow, n)
				seen[flow] = true
			}
			for _, m := range nodeNamespaces.FindAllStringSubmatch(metrics, -1) {
				n, err := strconv.ParseFloat(m[2], 64)
				if err != nil {
					t.Fatal(err)
				}
				counts[m[1]] += n
			}
			if t.Failed() {
				t.Fatalf("log of tcphup: %s", p.logged())
			}
		}
		stop()
		churn.Wait()
		if counts["failed"] > 0 || counts["read"] == 0 || len(seen) < scrapes/10 {
			t.Errorf("results %v, %d destinations", counts, len(seen))
		}
		t.Logf("%d scrapes, %d pods started, %d destinations seen, namespaces %v", scrapes, started.Load(), len(seen), counts)
	})
}

// mustBeOfPod checks that the labels of a flow are those of the pod with its destination.
func mustBeOfPod(t *testing.T, flow string, n int) {
	t.Helper()
	label, destination, _ := strings.Cut(flow, " to ")
	to, err := netip.ParseAddrPort(destination)
	if err != nil {
		t.Errorf("%s: %v", flow, err)
		return
	}
	b := to.Addr().As4()
	if b[1] < 100 {
		return // of the pod that stays
	}
	s, _, flows := churnPod(int(b[1]-100)<<16 | int(b[2])<<8 | int(b[3]))
	if label != s.Namespace+"/"+s.Name || n > flows {
		t.Errorf("%d flows %s, want at most %d of %s/%s", n, flow, flows, s.Namespace, s.Name)
	}
}
