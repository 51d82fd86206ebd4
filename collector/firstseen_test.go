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
	c.own.tcp.now = boottime.Now
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

// A flow is known to be young only if a complete scan did not have it: one that the first
// scan finds may be of any age.
func TestFirstSeenYouth(t *testing.T) {
	now := time.Hour
	table := newFirstSeenTable(func() time.Duration { return now })
	flow := func(cookie uint64) *sockdiag.Flow {
		return &sockdiag.Flow{Cookie: cookie, Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.5:80")}
	}
	scan := func(cookies ...uint64) {
		now += time.Minute
		table.beginScan()
		for _, c := range cookies {
			table.observe(flow(c))
		}
		table.finishScan()
	}
	want := func(cookie uint64, youth time.Duration, known bool) {
		t.Helper()
		if got, ok := table.youth(flow(cookie)); ok != known || got != youth {
			t.Errorf("flow %d: youth %v, %t, want %v, %t", cookie, got, ok, youth, known)
		}
	}
	want(1, 0, false)
	scan(1)
	want(1, 0, false)
	scan(1, 2)
	now += time.Second
	want(1, 0, false)
	want(2, time.Second, true)
	want(3, time.Second, true) // not in the last scan
}
