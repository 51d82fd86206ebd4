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

// A new connection of a reused socket starts at age 0.
func TestFirstSeenReusedSocket(t *testing.T) {
	now := time.Now()
	a := newFirstSeenTable(func() time.Time { return now })
	flow := &sockdiag.Flow{Cookie: 1, Local: netip.MustParseAddrPort("10.0.0.1:40000")}
	a.beginScan()
	a.observe(flow, now)
	now = now.Add(time.Hour)
	a.beginScan()
	if age := a.observe(flow, now); age < 59*time.Minute {
		t.Errorf("age of the same flow is %v", age)
	}
	flow.Local = netip.MustParseAddrPort("10.0.0.1:40001")
	if age := a.observe(flow, now); age != 0 {
		t.Errorf("age of the new flow on its socket is %v", age)
	}
}
