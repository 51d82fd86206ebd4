package collector

import (
	"net/netip"
	"testing"
	"time"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// A flow is as old as it is, however the clock is set meanwhile.
func TestAgesClockSet(t *testing.T) {
	var set time.Duration
	clock := func() time.Time { return nstest.ClockSet(t, time.Now(), set) }
	a := newAges(clock)
	flow := &sockdiag.Flow{Cookie: 1}
	see := func() time.Duration {
		began := clock()
		a.begin()
		age := a.see(flow, began)
		a.finish()
		return age
	}
	begun := time.Now()
	see()
	nstest.Eventually(t, "the flow is known for longer than a step", func() bool { return time.Since(begun) > 2*sightingStep })
	for _, set = range []time.Duration{time.Hour, -24 * time.Hour, 0} {
		age, most := see(), time.Since(begun)
		if age < 0 || age == 0 || age > most {
			t.Errorf("clock set by %v: the flow is %v old, want at most %v", set, age, most)
		}
		if first, known := a.firstSeen(flow); !known || clock().Sub(first) > time.Since(begun) || clock().Sub(first) <= 0 {
			t.Errorf("clock set by %v: first seen %v, %t", set, first, known)
		}
	}
}

// While no pass is complete, flows that come and go do not fill the memory.
func TestAgesWithoutACompletePass(t *testing.T) {
	now := time.Now()
	a := newAges(func() time.Time { return now })
	lasting := &sockdiag.Flow{Cookie: 1}
	var cookie uint64 = 1
	for range 2000 {
		now = now.Add(time.Second)
		a.begin()
		a.see(lasting, now)
		for range 1000 {
			cookie++
			a.see(&sockdiag.Flow{Cookie: cookie}, now)
		}
	}
	if n, most := len(a.entries), 4*maxUnseen*1000; n > most {
		t.Errorf("room for %d flows, want %d at most", n, most)
	}
	if first, known := a.firstSeen(lasting); !known || now.Sub(first) < 1900*time.Second {
		t.Errorf("a flow that is seen by every pass: first seen %v, %t", first, known)
	}
}

// A socket that its application connects anew is not as old as it was.
func TestAgeOfASocketUsedAgain(t *testing.T) {
	now := time.Now()
	a := newAges(func() time.Time { return now })
	flow := &sockdiag.Flow{Cookie: 1, Local: netip.MustParseAddrPort("10.0.0.1:40000")}
	a.begin()
	a.see(flow, now)
	now = now.Add(time.Hour)
	a.begin()
	if age := a.see(flow, now); age < 59*time.Minute {
		t.Errorf("the same flow is %v old", age)
	}
	flow.Local = netip.MustParseAddrPort("10.0.0.1:40001")
	if age := a.see(flow, now); age != 0 {
		t.Errorf("the flow that has its socket now is %v old", age)
	}
}
