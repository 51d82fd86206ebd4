package collector

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
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
	now func() time.Duration // since boot, including suspends

	mu           sync.Mutex
	secret       [2]uint64        // key of the hash
	began        time.Duration    // start of the running scan
	entries      []firstSeenEntry // the length is a power of two
	changed      bool             // there are new entries since the last snapshot
	used         int              // entries with a key, live or expired
	scan         uint32           // the running scan, or the last one
	lastComplete uint32           // the last complete scan
	// complete is the start of the last complete scan, and known the end of the first one: a
	// flow that is first seen later is new. 0 before such a scan.
	complete, known time.Duration
}

// firstSeenEntry is the entry of one flow. It is live if the last complete scan, or a
// later one, has seen the flow, and one of the last maxUnseen scans has. Expired
// entries stay until the table is rehashed. Key 0 marks a free entry.
type firstSeenEntry struct {
	key   uint64
	first uint32 // in steps since boot, rounded up
	scan  uint32 // the last scan with the flow
}

const (
	// firstSeenStep is the resolution of the timestamps. A uint32 of them lasts 13 years.
	firstSeenStep = 100 * time.Millisecond

	minEntries = 1 << 6

	// maxUnseen is the number of scans after which an unseen flow expires even if none of
	// them was complete. It bounds the table.
	maxUnseen = 64
)

// key returns the key of a flow: a hash of its cookie and both addresses, because a socket
// that is connected again keeps its cookie, and its local address if it is bound.
func (t *firstSeenTable) key(f *sockdiag.Flow) uint64 {
	local, remote := words(f.Local.Addr()), words(f.Remote.Addr())
	ports := uint64(f.Local.Port())<<16 | uint64(f.Remote.Port())
	return max(1, siphash(t.secret, f.Cookie, local[0], local[1], remote[0], remote[1], ports))
}

func words(a netip.Addr) [2]uint64 {
	b := a.As16()
	return [2]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func newFirstSeenTable(now func() time.Duration) *firstSeenTable {
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // never fails
	return &firstSeenTable{
		now: now, entries: make([]firstSeenEntry, minEntries),
		secret: [2]uint64{binary.BigEndian.Uint64(secret[:8]), binary.BigEndian.Uint64(secret[8:])},
	}
}

// beginScan starts a scan.
func (t *firstSeenTable) beginScan() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.scan++
	t.began = t.now()
}

// observe records a flow of the current scan and returns its age at the start of the
// scan. A flow without a cookie is not recorded; its age is 0.
func (t *firstSeenTable) observe(f *sockdiag.Flow) time.Duration {
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
		// Not the start of the scan: the flow may have been opened after it.
		*e = firstSeenEntry{key: key, first: uint32((t.now() + firstSeenStep - 1) / firstSeenStep)}
		t.changed = true
	}
	e.scan = t.scan
	age := max(0, t.began-e.timestamp())
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
	t.lastComplete, t.complete = t.scan, t.began
	t.known = cmp.Or(t.known, t.now())
	if len(t.entries) > minEntries && t.used < len(t.entries)/8 {
		t.rehash()
	}
}

// age returns how long ago the flow was first seen. It reports false for a flow without
// a live entry.
func (t *firstSeenTable) age(f *sockdiag.Flow) (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := &t.entries[t.slot(t.key(f))]
	if !t.live(e) {
		return 0, false
	}
	return t.now() - e.timestamp(), true
}

// youth returns a time that has passed since before the flow was established: since it was
// first seen, or since the last scan without it. It reports false for a flow that the first
// complete scan may have found: it may be of any age.
func (t *firstSeenTable) youth(f *sockdiag.Flow) (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := &t.entries[t.slot(t.key(f))]
	switch {
	case t.known == 0, t.live(e) && e.timestamp() <= t.known+firstSeenStep:
		return 0, false
	case t.live(e):
		return t.now() - e.timestamp(), true
	default:
		return t.now() - t.complete, true
	}
}

func (t *firstSeenTable) live(e *firstSeenEntry) bool {
	return e.key != 0 && e.scan >= t.lastComplete && t.scan-e.scan < maxUnseen
}

// timestamp returns the first-seen time since boot.
func (e *firstSeenEntry) timestamp() time.Duration { return time.Duration(e.first) * firstSeenStep }

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
