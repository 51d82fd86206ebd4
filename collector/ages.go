package collector

import (
	"math/bits"
	"sync"
	"time"

	"tcphup/sockdiag"
)

// ages remembers when each flow was first seen: 16 bytes and one cache miss for
// each flow, in a hash table with linear probing. It may be asked while a pass
// goes on.
type ages struct {
	now   func() time.Time
	start time.Time // what sightings are counted from

	mu      sync.Mutex
	entries []sighting // their number is a power of two
	used    int        // entries that are not free, live or not
	pass    uint32     // the pass that is under way, or was last
	last    uint32     // the last one that was complete
}

// sighting is the entry of one flow. It is live as long as the last complete
// pass, or one after it, has seen the flow, and one of the last maxUnseen passes; what
// is no longer live keeps its place until the table is made anew. A key of 0, which no
// flow has, marks a free entry.
type sighting struct {
	key   uint64
	first uint32 // in steps after ages.start, rounded up
	pass  uint32 // the last that saw the flow
}

const (
	// sightingStep is the resolution of sightings: good for 13 years.
	sightingStep = 100 * time.Millisecond

	minSightings = 1 << 10

	// maxUnseen bounds what is remembered while no pass is complete.
	maxUnseen = 64
)

// sightingKey names a flow. An application may use a socket for one flow after the
// other, and the cookie stays the same; the local port seldom does.
func sightingKey(f *sockdiag.Flow) uint64 {
	return f.Cookie ^ uint64(f.Local.Port())<<48
}

func newAges(now func() time.Time) *ages {
	return &ages{now: now, start: now(), entries: make([]sighting, minSightings)}
}

// begin starts a pass.
func (a *ages) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pass++
}

// see notes a flow that the pass which began at the given time has come across,
// and returns how long it had been known then.
func (a *ages) see(f *sockdiag.Flow, began time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := sightingKey(f)
	e := &a.entries[a.slot(key)]
	switch {
	case f.Cookie == 0:
		return 0
	case !a.live(e):
		if e.key == 0 {
			a.used++
		}
		// Not the time at which the pass began: the flow may be younger than that.
		since := a.now().Sub(a.start)
		*e = sighting{key: key, first: uint32((since + sightingStep - 1) / sightingStep)}
	}
	e.pass = a.pass
	age := max(0, began.Sub(a.at(e)))
	if a.used > len(a.entries)/5*4 {
		a.renew()
	}
	return age
}

// finish ends a pass that has seen every flow there is; the others are forgotten.
// After a pass that could not be finished nothing is.
func (a *ages) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = a.pass
	if len(a.entries) > minSightings && a.used < len(a.entries)/8 {
		a.renew()
	}
}

// firstSeen returns when the flow was first seen.
func (a *ages) firstSeen(f *sockdiag.Flow) (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := &a.entries[a.slot(sightingKey(f))]
	if !a.live(e) {
		return time.Time{}, false
	}
	return a.at(e), true
}

func (a *ages) live(e *sighting) bool {
	return e.key != 0 && e.pass >= a.last && a.pass-e.pass < maxUnseen
}

func (a *ages) at(e *sighting) time.Time {
	return a.start.Add(time.Duration(e.first) * sightingStep)
}

// slot returns the index of the key's entry, or of the free one where it would
// have to be. There is always a free one.
func (a *ages) slot(key uint64) int {
	// Cookies count up; the multiplication (Knuth, 6.4) scatters them.
	i := int(key * 0x9e3779b97f4a7c15 >> (64 - bits.TrailingZeros(uint(len(a.entries)))))
	for a.entries[i].key != key && a.entries[i].key != 0 {
		i = (i + 1) & (len(a.entries) - 1)
	}
	return i
}

// renew makes a table with room for as many live entries again.
func (a *ages) renew() {
	live := 0
	for i := range a.entries {
		live += index(a.live(&a.entries[i]))
	}
	old := a.entries
	a.entries = make([]sighting, max(minSightings, 1<<bits.Len(uint(2*live))))
	a.used = live
	for i := range old {
		if e := &old[i]; a.live(e) {
			a.entries[a.slot(e.key)] = *e
		}
	}
}
