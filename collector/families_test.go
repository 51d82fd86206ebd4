package collector

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/internal/exposition"
	"tcphup/sockdiag"
)

// A scrape does not leak into a later one through reused memory.
func TestMetricsMemory(t *testing.T) {
	const s = time.Second
	busy := []sockdiag.Flow{
		flow("0.0.0.0:22", "0.0.0.0:0", state(sockdiag.Listen)),
		flow("10.0.0.1:22", "10.9.9.9:41000"),
		flow("10.0.0.1:40000", "10.0.0.2:80", idle(90*s, 70*s, 100*s), timer(sockdiag.TimerRetransmit, 5), queues(3, 1000)),
		flow("10.0.0.1:40001", "10.0.0.3:80", idle(9000*s, 9000*s, s), timer(sockdiag.TimerKeepalive, 2)),
		flow("10.0.0.1:40002", "10.0.0.4:80", mptcp(1, 0, 2), inode(100)),
		flow("10.0.0.1:40002", "10.0.0.4:80", subflow(1, 0), inode(100), idle(2*s, 2*s, s)),
		flow("10.0.1.1:40003", "10.0.1.4:80", subflow(1, sockdiag.SubflowJoinLocal), inode(100), idle(70*s, 80*s, s)),
	}
	quiet := []sockdiag.Flow{flow("10.0.0.1:40010", "10.0.0.9:443", idle(3*s, 3*s, s))}
	alone := func(flows []sockdiag.Flow) string {
		return scrape(t, newTest(t, Config{Histograms: Histograms()}, &fakeKernel{flows: flows}))
	}

	encoder := exposition.NewEncoder(families(Histograms(), false))
	for _, flows := range [][]sockdiag.Flow{busy, quiet, nil, busy} {
		c := newTest(t, Config{}, &fakeKernel{flows: flows})
		c.encoder = encoder
		if diff := cmp.Diff(strings.Split(alone(flows), "\n"), strings.Split(scrape(t, c), "\n")); diff != "" {
			t.Errorf("with reused memory (-want +got):\n%s", diff)
		}
	}

	c := newTest(t, Config{Histograms: Histograms()}, &fakeKernel{flows: busy})
	want := alone(busy)
	var scrapes sync.WaitGroup
	for range 8 {
		scrapes.Go(func() {
			for range 20 {
				if got := scrape(t, c); got != want {
					t.Errorf("concurrent scrape:\n%s", got)
					return
				}
			}
		})
	}
	scrapes.Wait()
}
