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

// fill passes so many flows to each destination through the contract and returns
// what it keeps.
func fill(c *contract, flows map[netip.AddrPort]int) (kept []netip.AddrPort, rest group, folded int) {
	c.reset()
	for d, n := range flows {
		for range n {
			i := c.group(d)
			c.groups[i].states[sockdiag.Established]++
		}
	}
	all, rest, folded := c.choose()
	for _, s := range all {
		kept = append(kept, s.destination)
		if got := s.group.states[sockdiag.Established]; int(got) != flows[s.destination] {
			panic(fmt.Sprintf("%v has %d flows, want %d", s.destination, got, flows[s.destination]))
		}
	}
	slices.SortFunc(kept, netip.AddrPort.Compare)
	return kept, rest, folded
}

func notPinned(netip.AddrPort) bool { return false }

// A destination does not come and go while its rank hardly changes.
func TestHysteresis(t *testing.T) {
	a, b, d := numbered(1), numbered(2), numbered(3)
	c := newContract(2, notPinned)
	steps := []struct {
		flows map[netip.AddrPort]int
		want  []netip.AddrPort
	}{
		{map[netip.AddrPort]int{a: 100, b: 20, d: 19}, []netip.AddrPort{a, b}},
		{map[netip.AddrPort]int{a: 100, b: 20, d: 21}, []netip.AddrPort{a, b}}, // hardly larger
		{map[netip.AddrPort]int{a: 100, b: 19, d: 24}, []netip.AddrPort{a, b}},
		{map[netip.AddrPort]int{a: 100, b: 20, d: 27}, []netip.AddrPort{a, d}}, // clearly larger
		{map[netip.AddrPort]int{a: 100, b: 30, d: 27}, []netip.AddrPort{a, d}}, // and stays in turn
		{map[netip.AddrPort]int{a: 100, b: 30}, []netip.AddrPort{a, b}},        // no flow left
		{map[netip.AddrPort]int{a: 1, b: 1, d: 1}, []netip.AddrPort{a, b}},
		{map[netip.AddrPort]int{a: 1, b: 1, d: 2}, []netip.AddrPort{a, b}}, // one socket more is noise
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

// Among more destinations than there is room for, the large ones are found by the
// second pass, wherever the dump has them.
func TestLargeAmongMany(t *testing.T) {
	const limit = 10
	c := newContract(limit, func(d netip.AddrPort) bool { return d == numbered(123_456) })
	pass := func() (kept []netip.AddrPort, folded int) {
		c.reset()
		add := func(d netip.AddrPort) {
			i := c.group(d)
			c.groups[i].states[sockdiag.Established]++
		}
		for i := range 200_000 {
			add(numbered(i))
			if i > 100_000 { // late, when every group is taken
				add(numbered(1_000_000 + i%5))
			}
		}
		all, rest, folded := c.choose()
		flows := int(rest.states[sockdiag.Established])
		for _, s := range all {
			kept = append(kept, s.destination)
			flows += int(s.group.states[sockdiag.Established])
		}
		if flows != 299_999 {
			t.Errorf("%d flows are counted, want 299999", flows)
		}
		return kept, folded
	}
	pass()
	kept, folded := pass()
	for i := range 5 {
		if !slices.Contains(kept, numbered(1_000_000+i)) {
			t.Errorf("large destination %v is not kept", numbered(1_000_000+i))
		}
	}
	if !slices.Contains(kept, numbered(123_456)) {
		t.Error("pinned destination is not kept")
	}
	if len(kept) != limit {
		t.Errorf("keeps %d destinations, want %d", len(kept), limit)
	}
	if least, most := limit*candidatesPerSeries, 200_005-limit; folded < least || folded > most || !c.rest.overflown() {
		t.Errorf("%d folded destinations, want a lower bound of %d that is at least %d", folded, most, least)
	}
}

// The number of folded destinations is exact up to the number that the help text says.
func TestFoldedIsExact(t *testing.T) {
	const limit = 10
	flows := make(map[netip.AddrPort]int)
	for i := range (candidatesPerSeries + 1) * limit {
		flows[numbered(i)] = 1 + i%3
	}
	for pass, c := 1, newContract(limit, notPinned); pass <= 3; pass++ {
		if kept, _, folded := fill(c, flows); len(kept)+folded != len(flows) || c.rest.overflown() {
			t.Errorf("pass %d keeps %d and folds %d of %d destinations", pass, len(kept), folded, len(flows))
		}
	}
}

func TestPinnedBeyondLimit(t *testing.T) {
	c := newContract(3, func(netip.AddrPort) bool { return true })
	flows := make(map[netip.AddrPort]int)
	for i := range 1000 {
		flows[numbered(i)] = 1
	}
	if kept, _, folded := fill(c, flows); len(kept) != 3 || folded < 3*candidatesPerSeries || folded > 997 {
		t.Errorf("keeps %d of 1000 pinned destinations and folds %d, want 3 and a lower bound of 997", len(kept), folded)
	}
}

// A million flows, each to a destination of its own: memory follows the contract.
func TestMillionDestinations(t *testing.T) {
	c := newTest(t, Config{}, &fakeKernel{})
	var table sockdiag.Table
	random := rand.New(rand.NewPCG(1, 2))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 2 {
		c.fold.begin()
		now := c.now()
		for range 1_000_000 {
			f := flow1(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())}), uint16(random.Uint32())))
			c.fold.addTCP(&f, &table, now)
		}
		c.fold.end(true, true)
		n := counter(0)
		if err := c.encoder.Encode(&n, nil, c.result(reading{}, reading{}), nil); err != nil {
			t.Fatal(err)
		}
		if most := (DefaultMaxDestinations+1)*19 + 10; int(n) > most {
			t.Errorf("%d metrics, want %d at most", n, most)
		}
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("a million destinations hold %d bytes, want 4 MiB at most", grown)
	}
	runtime.KeepAlive(c)
}

// counter is an encoder that counts metrics.
type counter int

func (n *counter) Encode(f *dto.MetricFamily) error {
	*n += counter(len(f.GetMetric()))
	return nil
}

// flow1 is an established flow whose cookie is always the same, so that its age
// takes no memory.
func flow1(remote netip.AddrPort) sockdiag.Flow {
	return sockdiag.Flow{
		State:   sockdiag.Established,
		Local:   netip.MustParseAddrPort("10.0.0.1:40000"),
		Remote:  remote,
		HasInfo: true,
		Cookie:  1,
	}
}

func BenchmarkFold(b *testing.B) {
	for _, destinations := range []int{200, 20_000, 1_000_000} {
		b.Run(fmt.Sprintf("destinations=%d", destinations), func(b *testing.B) {
			c := newTest(b, Config{}, &fakeKernel{})
			var table sockdiag.Table
			flows := make([]sockdiag.Flow, 1_000_000)
			for i := range flows {
				flows[i] = flow1(numbered(i * 7919 % destinations))
				flows[i].Cookie = uint64(i + 1)
			}
			now := c.now()
			b.ReportAllocs()
			for b.Loop() {
				c.fold.begin()
				for i := range flows {
					c.fold.addTCP(&flows[i], &table, now)
				}
				c.fold.end(true, true)
				c.fold.destinations.choose()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(flows)), "ns/flow")
		})
	}
}

// BenchmarkExposition is all of a scrape but the reading of sockets.
func BenchmarkExposition(b *testing.B) {
	for _, destinations := range []int{20, 200, 500} {
		b.Run(fmt.Sprintf("destinations=%d", destinations), func(b *testing.B) {
			kernel := &fakeKernel{}
			for i := range destinations {
				kernel.flows = append(kernel.flows, flow1(numbered(i)))
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
