package collector

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"sync"
	"time"

	"tcphup/sockdiag"
)

// firstSeenTable records when each flow was first seen. It is a hash table with
// linear probing: 16 bytes and one cache miss per flow. Its methods may be called
// concurrently.
type firstSeenTable struct {
	now   func() time.Time
	start time.Time // epoch of the entries
	seed  maphash.Seed

	mu           sync.Mutex
	entries      []firstSeenEntry // the length is a power of two
	used         int              // entries with a key, live or expired
	scan         uint32           // the running scan, or the last one
	lastComplete uint32           // the last complete scan
}

// firstSeenEntry is the entry of one flow. It is live if the last complete scan, or a
// later one, has seen the flow, and one of the last maxUnseen scans has. Expired
// entries stay until the table is rehashed. Key 0 marks a free entry.
type firstSeenEntry struct {
	key   uint64
	first uint32 // in steps after firstSeenTable.start, rounded up
	scan  uint32 // the last scan with the flow
}

const (
	// firstSeenStep is the resolution of the timestamps. A uint32 of them lasts 13 years.
	firstSeenStep = 100 * time.Millisecond

	minEntries = 1 << 10

	// maxUnseen is the number of scans after which an unseen flow expires even if none of
	// them was complete. It bounds the table.
	maxUnseen = 64
)

// key returns the key of a flow: a hash of its cookie and both addresses, because a socket
// that is connected again keeps its cookie, and its local address if it is bound.
func (t *firstSeenTable) key(f *sockdiag.Flow) uint64 {
	return max(1, maphash.Comparable(t.seed, flowID{f.Cookie, f.Local, f.Remote}))
}

type flowID struct {
	cookie        uint64
	local, remote netip.AddrPort
}

func newFirstSeenTable(now func() time.Time) *firstSeenTable {
	return &firstSeenTable{now: now, start: now(), seed: maphash.MakeSeed(), entries: make([]firstSeenEntry, minEntries)}
}

// beginScan starts a scan.
func (t *firstSeenTable) beginScan() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.scan++
}

// observe records a flow of the current scan and returns its age at the start of the
// scan. A flow without a cookie is not recorded; its age is 0.
func (t *firstSeenTable) observe(f *sockdiag.Flow, scanStart time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := t.key(f)
	e := &t.entries[t.slot(key)]
	switch {
	case f.Cookie == 0:
		return 0
	case !t.live(e):
		if e.key == 0 {
			t.used++
		}
		// Not scanStart: the flow may have been opened after it.
		since := t.now().Sub(t.start)
		*e = firstSeenEntry{key: key, first: uint32((since + firstSeenStep - 1) / firstSeenStep)}
	}
	e.scan = t.scan
	age := max(0, scanStart.Sub(t.timestamp(e)))
	if t.used > len(t.entries)/5*4 {
		t.rehash()
	}
	return age
}

// finishScan ends a complete scan and expires the flows that it has not seen. It is
// not called after an incomplete scan.
func (t *firstSeenTable) finishScan() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastComplete = t.scan
	if len(t.entries) > minEntries && t.used < len(t.entries)/8 {
		t.rehash()
	}
}

// firstSeen returns when the flow was first seen. It reports false for a flow without
// a live entry.
func (t *firstSeenTable) firstSeen(f *sockdiag.Flow) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := &t.entries[t.slot(t.key(f))]
	if !t.live(e) {
		return time.Time{}, false
	}
	return t.timestamp(e), true
}

func (t *firstSeenTable) live(e *firstSeenEntry) bool {
	return e.key != 0 && e.scan >= t.lastComplete && t.scan-e.scan < maxUnseen
}

func (t *firstSeenTable) timestamp(e *firstSeenEntry) time.Time {
	return t.start.Add(time.Duration(e.first) * firstSeenStep)
}

// slot returns the index of the key's entry, or of the free entry for it. The load
// factor is below 1, so the loop ends.
func (t *firstSeenTable) slot(key uint64) int {
	i := int(key >> (64 - bits.TrailingZeros(uint(len(t.entries)))))
	for t.entries[i].key != key && t.entries[i].key != 0 {
		i = (i + 1) & (len(t.entries) - 1)
	}
	return i
}

// rehash moves the live entries to a new table with room for twice as many.
func (t *firstSeenTable) rehash() {
	live := 0
	for i := range t.entries {
		live += toInt(t.live(&t.entries[i]))
	}
	old := t.entries
	t.entries = make([]firstSeenEntry, max(minEntries, 1<<bits.Len(uint(2*live))))
	t.used = live
	for i := range old {
		if e := &old[i]; t.live(e) {
			t.entries[t.slot(e.key)] = *e
		}
	}
}
