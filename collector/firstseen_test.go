package collector

import (
	"net/netip"
	"testing"
	"time"

	"tcphup/internal/boottime"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// Setting the clock does not change the age of a flow.
func TestFirstSeenClockSet(t *testing.T) {
	flow := flow("10.0.0.1:40000", "10.0.0.2:80")
	c := newTest(t, Config{}, &fakeKernel{flows: []sockdiag.Flow{flow}})
	var set time.Duration
	c.now = func() time.Time { return nstest.ClockSet(t, time.Now(), set) }
	c.aggregator.tcp.now = boottime.Now
	start := boottime.Now()
	get(c, "10")
	nstest.Eventually(t, "the flow is older than a step", func() bool { return boottime.Now()-start > 2*firstSeenStep })
	for _, set = range []time.Duration{time.Hour, -24 * time.Hour, 0} {
		get(c, "10")
		if first, known := c.FirstSeen(&flow); !known || c.now().Sub(first) > boottime.Now()-start || c.now().Sub(first) <= 0 {
			t.Errorf("clock set by %v: first seen %v, %t", set, first, known)
		}
	}
}

// Short-lived flows do not fill the memory while no scan is complete.
func TestFirstSeenIncompleteScans(t *testing.T) {
	now := time.Hour
	a := newFirstSeenTable(func() time.Duration { return now })
	lasting := &sockdiag.Flow{Cookie: 1}
	var cookie uint64 = 1
	for range 2000 {
		now += time.Second
		a.beginScan()
		a.observe(lasting)
		for range 1000 {
			cookie++
			a.observe(&sockdiag.Flow{Cookie: cookie})
		}
	}
	if n, most := len(a.entries), 4*maxUnseen*1000; n > most {
		t.Errorf("room for %d flows, want at most %d", n, most)
	}
	if age, known := a.age(lasting); !known || age < 1900*time.Second {
		t.Errorf("flow in every scan: age %v, %t", age, known)
	}
}

// A new connection of a reused socket starts at age 0, also if the socket is bound to its
// local address.
func TestFirstSeenReusedSocket(t *testing.T) {
	now := time.Hour
	a := newFirstSeenTable(func() time.Duration { return now })
	first := sockdiag.Flow{Cookie: 1, Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.2:80")}
	a.beginScan()
	a.observe(&first)
	now += time.Hour
	a.beginScan()
	if age := a.observe(&first); age < 59*time.Minute {
		t.Errorf("age of the same flow is %v", age)
	}
	for name, change := range map[string]func(*sockdiag.Flow){
		"cookie":         func(f *sockdiag.Flow) { f.Cookie = 2 },
		"local port":     func(f *sockdiag.Flow) { f.Local = netip.MustParseAddrPort("10.0.0.1:40001") },
		"local address":  func(f *sockdiag.Flow) { f.Local = netip.MustParseAddrPort("10.0.0.9:40000") },
		"remote port":    func(f *sockdiag.Flow) { f.Remote = netip.MustParseAddrPort("10.0.0.2:81") },
		"remote address": func(f *sockdiag.Flow) { f.Remote = netip.MustParseAddrPort("10.0.0.9:80") },
	} {
		reused := first
		change(&reused)
		if age, known := a.age(&reused); known {
			t.Errorf("another %s: age %v before the scan", name, age)
		}
		if age := a.observe(&reused); age != 0 {
			t.Errorf("another %s: age is %v", name, age)
		}
	}
}
