package collector

import (
	"sync"
	"time"
)

// ages remembers when each flow was first seen. It may be asked while a pass
// goes on.
type ages struct {
	mu    sync.Mutex
	now   func() time.Time
	start time.Time // what first is counted from
	pass  uint32
	peak  int // largest number of flows since the map was made
	flows map[uint64]sighting
}

// sighting is the entry of one flow. Times are kept as differences because a
// time.Time is three words.
type sighting struct {
	first time.Duration
	pass  uint32 // the last that saw the flow
}

func newAges(now func() time.Time) *ages {
	return &ages{now: now, start: now(), flows: make(map[uint64]sighting)}
}

func (a *ages) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pass++
}

// see notes a flow that the pass which began at the given time has come across,
// and returns how long it had been known then.
func (a *ages) see(cookie uint64, began time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, known := a.flows[cookie]
	if !known {
		// Not the time at which the pass began: the flow may be younger than that.
		s.first = a.now().Sub(a.start)
	}
	s.pass = a.pass
	a.flows[cookie] = s
	return max(0, began.Sub(a.start)-s.first)
}

// sweep forgets every flow that the pass has not seen.
func (a *ages) sweep() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.peak = max(a.peak, len(a.flows))
	for cookie, s := range a.flows {
		if s.pass != a.pass {
			delete(a.flows, cookie)
		}
	}
	// A map keeps the memory of its best days.
	if len(a.flows) < a.peak/4 {
		flows := make(map[uint64]sighting, len(a.flows))
		for cookie, s := range a.flows {
			flows[cookie] = s
		}
		a.flows, a.peak = flows, len(flows)
	}
}

// firstSeen returns when the flow was first seen.
func (a *ages) firstSeen(cookie uint64) (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, known := a.flows[cookie]
	if !known {
		return time.Time{}, false
	}
	return a.start.Add(s.first), true
}
