package collector

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"tcphup/sockdiag"
)

// numbered returns the i-th of many destinations.
func numbered(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 443)
}

// fill counts the given number of flows to each destination and returns the choice,
// sorted.
func fill(c *destinationLimit, flows map[netip.AddrPort]int) (kept []netip.AddrPort, rest aggregate, folded int) {
	c.reset()
	for d, n := range flows {
		for range n {
			i := c.aggregate(d)
			c.aggregates[i].states[sockdiag.Established]++
		}
	}
	all, rest, folded := c.choose()
	for _, s := range all {
		kept = append(kept, s.destination)
		if got := s.aggregate.states[sockdiag.Established]; int(got) != flows[s.destination] {
			panic(fmt.Sprintf("%v has %d flows, want %d", s.destination, got, flows[s.destination]))
		}
	}
	slices.SortFunc(kept, netip.AddrPort.Compare)
	return kept, rest, folded
}

func notPinned(netip.AddrPort) bool { return false }

// A small change of rank does not replace a kept destination.
func TestHysteresis(t *testing.T) {
	a, b, d := numbered(1), numbered(2), numbered(3)
	c := newDestinationLimit(2, notPinned)
	steps := []struct {
		flows map[netip.AddrPort]int
		want  []netip.AddrPort
	}{
		{map[netip.AddrPort]int{a: 100, b: 20, d: 19}, []netip.AddrPort{a, b}},
		{map[netip.AddrPort]int{a: 100, b: 20, d: 21}, []netip.AddrPort{a, b}}, // slightly larger
		{map[netip.AddrPort]int{a: 100, b: 19, d: 24}, []netip.AddrPort{a, b}},
		{map[netip.AddrPort]int{a: 100, b: 20, d: 27}, []netip.AddrPort{a, d}}, // clearly larger
		{map[netip.AddrPort]int{a: 100, b: 30, d: 27}, []netip.AddrPort{a, d}}, // hysteresis of the new one
		{map[netip.AddrPort]int{a: 100, b: 30}, []netip.AddrPort{a, b}},        // no flows
		{map[netip.AddrPort]int{a: 1, b: 1, d: 1}, []netip.AddrPort{a, b}},
		{map[netip.AddrPort]int{a: 1, b: 1, d: 2}, []netip.AddrPort{a, b}}, // one socket is below the hysteresis
	}
	for i, step := range steps {
		kept, rest, folded := fill(c, step.flows)
		if !slices.Equal(kept, step.want) {
			t.Errorf("step %d keeps %v, want %v", i, kept, step.want)
		}
		total := int(rest.states[sockdiag.Established])
		for _, k := range kept {
			total += step.flows[k]
		}
		want := 0
		for _, n := range step.flows {
			want += n
		}
		if total != want || folded != len(step.flows)-len(kept) {
			t.Errorf("step %d: %d flows and %d folded, want %d and %d", i, total, folded, want, len(step.flows)-len(kept))
		}
	}
}

// The second scan finds the large destinations among more than there is room for,
// wherever they are in the dump.
func TestLargeAmongMany(t *testing.T) {
	const limit = 10
	c := newDestinationLimit(limit, func(d netip.AddrPort) bool { return d == numbered(123_456) })
	scan := func() (kept []netip.AddrPort, folded int) {
		c.reset()
		add := func(d netip.AddrPort) {
			i := c.aggregate(d)
			c.aggregates[i].states[sockdiag.Established]++
		}
		for i := range 200_000 {
			add(numbered(i))
			if i > 100_000 { // late, when every aggregate is in use
				add(numbered(1_000_000 + i%5))
			}
		}
		all, rest, folded := c.choose()
		flows := int(rest.states[sockdiag.Established])
		for _, s := range all {
			kept = append(kept, s.destination)
			flows += int(s.aggregate.states[sockdiag.Established])
		}
		if flows != 299_999 {
			t.Errorf("%d flows, want 299999", flows)
		}
		return kept, folded
	}
	scan()
	kept, folded := scan()
	for i := range 5 {
		if !slices.Contains(kept, numbered(1_000_000+i)) {
			t.Errorf("large destination %v is not kept", numbered(1_000_000+i))
		}
	}
	if !slices.Contains(kept, numbered(123_456)) {
		t.Error("pinned destination is not kept")
	}
	if len(kept) != limit {
		t.Errorf("%d destinations, want %d", len(kept), limit)
	}
	if least, most := limit*candidatesPerSeries, 200_005-limit; folded < least || folded > most || !c.heavy.overflown() {
		t.Errorf("%d folded destinations, want a lower bound of %d that is at least %d", folded, most, least)
	}
}

// The number of folded destinations is exact up to the bound in its HELP text.
func TestFoldedIsExact(t *testing.T) {
	const limit = 10
	flows := make(map[netip.AddrPort]int)
	for i := range (candidatesPerSeries + 1) * limit {
		flows[numbered(i)] = 1 + i%3
	}
	for scan, c := 1, newDestinationLimit(limit, notPinned); scan <= 3; scan++ {
		if kept, _, folded := fill(c, flows); len(kept)+folded != len(flows) || c.heavy.overflown() {
			t.Errorf("scan %d keeps %d and folds %d of %d destinations", scan, len(kept), folded, len(flows))
		}
	}
}

func TestPinnedBeyondLimit(t *testing.T) {
	c := newDestinationLimit(3, func(netip.AddrPort) bool { return true })
	flows := make(map[netip.AddrPort]int)
	for i := range 1000 {
		flows[numbered(i)] = 1
	}
	if kept, _, folded := fill(c, flows); len(kept) != 3 || folded < 3*candidatesPerSeries || folded > 997 {
		t.Errorf("keeps %d of 1000 pinned destinations and folds %d, want 3 and a lower bound of 997", len(kept), folded)
	}
}

// Memory is bounded with a million flows to distinct destinations.
func TestMillionDestinations(t *testing.T) {
	c := newTest(t, Config{}, &fakeKernel{})
	var table sockdiag.Table
	random := rand.New(rand.NewPCG(1, 2))
	before := heap()
	for range 2 {
		c.aggregator.begin(c.own)
		for range 1_000_000 {
			f := withoutCookie(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())}), uint16(random.Uint32())))
			c.aggregator.addTCP(&f, &table)
		}
		c.aggregator.end(true, true)
		n, r := counter(0), new(result)
		r.add(c.aggregator.result(sourceResult{}, sourceResult{}, nil))
		if err := c.encoder.Encode(&n, nil, r, nil); err != nil {
			t.Fatal(err)
		}
		if most := (DefaultMaxDestinations+1)*19 + 10; int(n) > most {
			t.Errorf("%d metrics, want at most %d", n, most)
		}
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("a million destinations use %d bytes, want at most 4 MiB", grown)
	}
	runtime.KeepAlive(c)
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// counter is an encoder that counts metrics.
type counter int

func (n *counter) Encode(f *dto.MetricFamily) error {
	*n += counter(len(f.GetMetric()))
	return nil
}

// withoutCookie returns an established flow that the first-seen table does not record.
func withoutCookie(remote netip.AddrPort) sockdiag.Flow {
	return sockdiag.Flow{
		State:   sockdiag.Established,
		Local:   netip.MustParseAddrPort("10.0.0.1:40000"),
		Remote:  remote,
		HasInfo: true,
	}
}

func BenchmarkAggregator(b *testing.B) {
	for _, destinations := range []int{200, 20_000, 1_000_000} {
		b.Run(fmt.Sprintf("destinations=%d", destinations), func(b *testing.B) {
			c := newTest(b, Config{}, &fakeKernel{})
			var table sockdiag.Table
			flows := make([]sockdiag.Flow, 1_000_000)
			for i := range flows {
				flows[i] = withoutCookie(numbered(i * 7919 % destinations))
				flows[i].Cookie = uint64(i + 1)
			}
			b.ReportAllocs()
			for b.Loop() {
				c.aggregator.begin(c.own)
				for i := range flows {
					c.aggregator.addTCP(&flows[i], &table)
				}
				c.aggregator.end(true, true)
				c.aggregator.destinations.choose()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(flows)), "ns/flow")
		})
	}
}

// BenchmarkExposition measures a scrape without the kernel.
func BenchmarkExposition(b *testing.B) {
	for _, destinations := range []int{20, 200, 500} {
		b.Run(fmt.Sprintf("destinations=%d", destinations), func(b *testing.B) {
			kernel := &fakeKernel{}
			for i := range destinations {
				kernel.flows = append(kernel.flows, withoutCookie(numbered(i)))
			}
			h := newTest(b, Config{}, kernel).Handler(prometheus.NewRegistry())
			request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(httptest.NewRecorder(), request)
			}
		})
	}
}
