package collector

import (
	"net/netip"
	"testing"
	"time"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// Setting the clock does not change the age of a flow.
func TestFirstSeenClockSet(t *testing.T) {
	var set time.Duration
	clock := func() time.Time { return nstest.ClockSet(t, time.Now(), set) }
	a := newFirstSeenTable(clock)
	flow := &sockdiag.Flow{Cookie: 1}
	scan := func() time.Duration {
		start := clock()
		a.beginScan()
		age := a.observe(flow, start)
		a.finishScan()
		return age
	}
	start := time.Now()
	scan()
	nstest.Eventually(t, "the flow is older than a step", func() bool { return time.Since(start) > 2*firstSeenStep })
	for _, set = range []time.Duration{time.Hour, -24 * time.Hour, 0} {
		age, most := scan(), time.Since(start)
		if age <= 0 || age > most {
			t.Errorf("clock set by %v: age %v, want at most %v", set, age, most)
		}
		if first, known := a.firstSeen(flow); !known || clock().Sub(first) > time.Since(start) || clock().Sub(first) <= 0 {
			t.Errorf("clock set by %v: first seen %v, %t", set, first, known)
		}
	}
}

// Short-lived flows do not fill the memory while no scan is complete.
func TestFirstSeenIncompleteScans(t *testing.T) {
	now := time.Now()
	a := newFirstSeenTable(func() time.Time { return now })
	lasting := &sockdiag.Flow{Cookie: 1}
	var cookie uint64 = 1
	for range 2000 {
		now = now.Add(time.Second)
		a.beginScan()
		a.observe(lasting, now)
		for range 1000 {
			cookie++
			a.observe(&sockdiag.Flow{Cookie: cookie}, now)
		}
	}
	if n, most := len(a.entries), 4*maxUnseen*1000; n > most {
		t.Errorf("room for %d flows, want at most %d", n, most)
	}
	if first, known := a.firstSeen(lasting); !known || now.Sub(first) < 1900*time.Second {
		t.Errorf("flow in every scan: first seen %v, %t", first, known)
	}
}

// A new connection of a reused socket starts at age 0, also if the socket is bound to its
// local address.
func TestFirstSeenReusedSocket(t *testing.T) {
	now := time.Now()
	a := newFirstSeenTable(func() time.Time { return now })
	first := sockdiag.Flow{Cookie: 1, Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.2:80")}
	a.beginScan()
	a.observe(&first, now)
	now = now.Add(time.Hour)
	a.beginScan()
	if age := a.observe(&first, now); age < 59*time.Minute {
		t.Errorf("age of the same flow is %v", age)
	}
	for name, change := range map[string]func(*sockdiag.Flow){
		"local port":     func(f *sockdiag.Flow) { f.Local = netip.MustParseAddrPort("10.0.0.1:40001") },
		"local address":  func(f *sockdiag.Flow) { f.Local = netip.MustParseAddrPort("10.0.0.9:40000") },
		"remote port":    func(f *sockdiag.Flow) { f.Remote = netip.MustParseAddrPort("10.0.0.2:81") },
		"remote address": func(f *sockdiag.Flow) { f.Remote = netip.MustParseAddrPort("10.0.0.9:80") },
	} {
		reused := first
		change(&reused)
		if seen, known := a.firstSeen(&reused); known {
			t.Errorf("another %s: first seen %v before the scan", name, seen)
		}
		if age := a.observe(&reused, now); age != 0 {
			t.Errorf("another %s: age is %v", name, age)
		}
	}
}
