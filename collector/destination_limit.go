package collector

import (
	"cmp"
	"net/netip"
	"slices"
)

// overflow is the index of the aggregate for destinations without one of their own.
const overflow = 0

// candidatesPerSeries is the number of aggregates per exported destination. With more
// than one, choose compares more destinations than it keeps.
const candidatesPerSeries = 8

// destinationLimit bounds the number of destinations (top N). Each destination gets an
// aggregate as long as there is room; other flows go to the overflow aggregate. choose
// then keeps the largest destinations. Memory depends on the limit only.
//
// The choice is exact while every candidate has an aggregate. Beyond that, the order of
// the dump decides which destinations get one. Two sets are reserved for the next scan:
// the kept destinations, and the heavy hitters of the overflow. So a destination with a
// large share is missed at most once. Each aggregate is complete.
type destinationLimit struct {
	limit      int                                   // maximum number of kept destinations
	pinned     func(destination netip.AddrPort) bool // whether to prefer a destination regardless of size
	aggregates []aggregate                           // the first one is overflow
	index      map[netip.AddrPort]int32              // of the destinations with an aggregate
	*reserved                                        // of the scanned namespace

	candidates []candidate // scratch buffer of choose
}

// reserved has the destinations of one namespace that are reserved for its next scan.
type reserved struct {
	kept  map[netip.AddrPort]struct{} // result of the previous choose
	heavy heavyHitters                // of the destinations in overflow
}

func newReserved(limit int) *reserved {
	return &reserved{
		kept:  make(map[netip.AddrPort]struct{}),
		heavy: heavyHitters{limit: limit, counts: make(map[netip.AddrPort]uint32)},
	}
}

// candidate is a destination with an aggregate.
type candidate struct {
	destination  netip.AddrPort
	index        int32 // of its aggregate
	pinned, kept bool  // kept: by the previous scan
	rank         uint64
}

// compare orders candidates by preference. There are thousands of them, many with the
// same rank, so each criterion is evaluated only when needed.
func (a candidate) compare(b candidate) int {
	switch {
	case a.pinned != b.pinned:
		return toInt(b.pinned) - toInt(a.pinned)
	case a.rank != b.rank:
		return cmp.Compare(b.rank, a.rank)
	case a.kept != b.kept:
		return toInt(b.kept) - toInt(a.kept)
	default:
		return a.destination.Compare(b.destination)
	}
}

func newDestinationLimit(limit int, pinned func(netip.AddrPort) bool) *destinationLimit {
	return &destinationLimit{
		limit:      limit,
		pinned:     pinned,
		aggregates: make([]aggregate, 1),
		index:      make(map[netip.AddrPort]int32),
		reserved:   newReserved(limit),
	}
}

// resetFor is reset for a scan of another namespace.
func (l *destinationLimit) resetFor(r *reserved) {
	l.reserved = r
	l.reset()
}

// reset empties the aggregates for the next scan.
func (l *destinationLimit) reset() {
	l.aggregates = append(l.aggregates[:0], aggregate{})
	clear(l.index)
	for d := range l.kept {
		l.add(d)
	}
	for d := range l.heavy.counts {
		l.add(d)
	}
	l.heavy.reset()
}

// aggregate returns the index of the aggregate for a flow to the destination. The
// index is valid until the next reset.
func (l *destinationLimit) aggregate(d netip.AddrPort) int32 {
	if i, ok := l.index[d]; ok {
		return i
	}
	room := l.limit * candidatesPerSeries
	if n := len(l.aggregates); n <= room || n <= room+l.limit && l.pinned(d) {
		return l.add(d)
	}
	l.heavy.add(d)
	return overflow
}

func (l *destinationLimit) add(d netip.AddrPort) int32 {
	i := int32(len(l.aggregates))
	l.aggregates = append(l.aggregates, aggregate{})
	l.index[d] = i
	return i
}

// choice is a kept destination.
type choice struct {
	destination netip.AddrPort
	aggregate   *aggregate // valid until the next reset
}

// choose returns the kept destinations, pinned and large ones first, the sum of the
// others, and the number of the others. The number is exact for up to
// (candidatesPerSeries+1)*limit destinations; above, it is a lower bound.
func (l *destinationLimit) choose() (kept []choice, rest aggregate, folded int) {
	candidates := l.candidates[:0]
	for d, i := range l.index {
		if l.aggregates[i].empty() {
			continue
		}
		rank := l.aggregates[i].size()
		_, kept := l.kept[d]
		if kept {
			// Hysteresis: a new destination replaces a kept one if it is larger by a quarter.
			rank += rank/4 + 1
		}
		candidates = append(candidates, candidate{d, i, l.pinned(d), kept, rank})
	}
	l.candidates = candidates
	slices.SortFunc(candidates, candidate.compare)

	clear(l.kept)
	keep := min(len(candidates), l.limit)
	kept = make([]choice, 0, keep)
	for _, k := range candidates[:keep] {
		kept = append(kept, choice{k.destination, &l.aggregates[k.index]})
		l.kept[k.destination] = struct{}{}
	}
	rest = l.aggregates[overflow]
	for _, k := range candidates[keep:] {
		rest.merge(&l.aggregates[k.index])
	}
	return kept, rest, len(candidates) - keep + l.heavy.distinct
}

// releaseIdleTimes drops the idle times, which only the results of choose need.
func (l *destinationLimit) releaseIdleTimes() {
	for i := range l.aggregates {
		l.aggregates[i].idleTimes = nil
	}
}

// heavyHitters finds the most frequent destinations of a stream with limit counters
// (Misra and Gries, 1982). The result contains every destination with more than one
// part in limit+1 of the stream.
type heavyHitters struct {
	limit    int
	counts   map[netip.AddrPort]uint32
	distinct int // distinct destinations; a lower bound above limit
}

func (h *heavyHitters) reset() {
	clear(h.counts)
	h.distinct = 0
}

// overflown reports whether distinct is a lower bound.
func (h *heavyHitters) overflown() bool { return h.distinct > h.limit }

func (h *heavyHitters) add(d netip.AddrPort) {
	if n, ok := h.counts[d]; ok {
		h.counts[d] = n + 1
		return
	}
	if len(h.counts) < h.limit {
		h.counts[d] = 1
		h.distinct = max(h.distinct, len(h.counts))
		return
	}
	h.distinct = h.limit + 1
	for other, n := range h.counts {
		if n == 1 {
			delete(h.counts, other)
			continue
		}
		h.counts[other] = n - 1
	}
}
