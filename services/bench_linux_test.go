package services

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// BenchmarkCounting compares two ways to count the flows of services during a scrape:
// observing the scrape's dump, or a second dump that the kernel filters by the services'
// addresses, as far as they fit a filter. It reports the floor, the time of the scrape's
// dump, and the additional time of each way.
func BenchmarkCounting(b *testing.B) {
	const processes, connections = 5, 5_000
	binary := testapp.Build(b)
	var to netip.AddrPort
	for range processes {
		to, _ = testapp.Load(b, binary, netip.MustParseAddr("127.0.1.1"), connections)
	}
	for _, services := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("sockets=%d/services=%d", 2*processes*connections, services), func(b *testing.B) {
			benchmarkCounting(b, to, services)
		})
	}
}

func benchmarkCounting(b *testing.B, to netip.AddrPort, services int) {
	var c Config
	selector := sockdiag.Selector{Ports: sockdiag.Ports(to.Port())}
	for i := range services {
		c.Services = append(c.Services, Service{Name: fmt.Sprintf("service-%d.internal", i), Port: to.Port()})
	}
	w, err := New(c)
	if err != nil {
		b.Fatal(err)
	}
	for i := range services {
		a := []netip.Addr{to.Addr()}
		for j := range 3 {
			a = append(a, netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)}))
		}
		if i > 0 {
			a = a[1:]
		}
		updateAll(&w.watches[fmt.Sprintf("service-%d.internal", i)].history, time.Now(), a, false, false)
		for _, addr := range a {
			selector.Destinations = append(selector.Destinations, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	conn, err := sockdiag.Dial()
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	dump := func(q sockdiag.Query, see func(*sockdiag.Flow)) time.Duration {
		begin := time.Now()
		for f, err := range conn.Flows(b.Context(), q) {
			if err != nil {
				b.Fatal(err)
			}
			see(&f)
		}
		return time.Since(begin)
	}
	all := sockdiag.Query{States: sockdiag.Open, Info: true, Ahead: true}
	filtered := sockdiag.Query{States: sockdiag.Open, Info: true, Selector: &selector}
	var floors, observed, seconds []time.Duration
	for b.Loop() {
		for range 5 {
			floors = append(floors, dump(all, func(*sockdiag.Flow) {}))
			begin := time.Now()
			see, done := w.Observe()
			dump(all, see)
			done()
			observed = append(observed, time.Since(begin))
			seconds = append(seconds, dump(filtered, func(*sockdiag.Flow) {}))
		}
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return d[len(d)/2].Seconds() * 1e3
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(floors), "floor-ms")
	b.ReportMetric(median(observed)-median(floors), "looking-on-ms")
	b.ReportMetric(median(seconds), "second-dump-ms")
}
