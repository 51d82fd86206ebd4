package collector

import (
	"cmp"
	"net/netip"
	"slices"
)

// other is the group of everything that is not counted under a destination of
// its own.
const other = 0

// candidatesPerSeries is how many destinations are counted on their own, so that
// the largest of them can be told, for each one that is shown.
const candidatesPerSeries = 8

// contract bounds the destinations. It counts flows into one group for each
// destination as long as there are not too many, the rest into the group other,
// and then keeps the largest. Its memory is bounded by the limit, however many
// destinations there are.
//
// The choice is exact as long as there are no more candidates than the contract
// has room for. Beyond, which of them get a group depends on the order of the
// dump, but what was kept last time and what then turned out to be large among
// the rest has a place reserved, so that a destination with more than its share
// is missed once at most. A group that exists is always complete.
type contract struct {
	limit  int                                   // destinations that may be kept
	pinned func(destination netip.AddrPort) bool // must be kept if at all possible
	groups []group                               // by index; other is always there
	index  map[netip.AddrPort]int32              // of every destination with a group
	pins   map[netip.AddrPort]struct{}           // those of them that are pinned
	kept   map[netip.AddrPort]struct{}           // kept last time
	rest   heavyHitters                          // those without a group

	candidates []candidate // memory of choose
}

// candidate is a destination that may be kept.
type candidate struct {
	destination  netip.AddrPort
	index        int32 // of its group
	pinned, kept bool  // kept: the last time
	rank         uint64
}

// compare puts what is to be kept first. There are thousands of candidates, many with
// the same rank: what decides is looked at in turn.
func (a candidate) compare(b candidate) int {
	switch {
	case a.pinned != b.pinned:
		return index(b.pinned) - index(a.pinned)
	case a.rank != b.rank:
		return cmp.Compare(b.rank, a.rank)
	case a.kept != b.kept:
		return index(b.kept) - index(a.kept)
	default:
		return a.destination.Compare(b.destination)
	}
}

func newContract(limit int, pinned func(netip.AddrPort) bool) *contract {
	return &contract{
		limit:  limit,
		pinned: pinned,
		groups: make([]group, 1),
		index:  make(map[netip.AddrPort]int32),
		pins:   make(map[netip.AddrPort]struct{}),
		kept:   make(map[netip.AddrPort]struct{}),
		rest:   newHeavyHitters(limit),
	}
}

// reset empties the groups for another pass.
func (c *contract) reset() {
	c.groups = append(c.groups[:0], group{})
	clear(c.index)
	clear(c.pins)
	for d := range c.kept {
		c.open(d)
	}
	for d := range c.rest.counts {
		c.open(d)
	}
	c.rest.reset()
}

// group returns the index of the group that a flow to the destination is to be
// counted in. It holds until the next reset.
func (c *contract) group(d netip.AddrPort) int32 {
	if i, ok := c.index[d]; ok {
		return i
	}
	room := c.limit * candidatesPerSeries
	if len(c.groups) <= room+c.limit && c.pinned(d) {
		return c.open(d)
	}
	if len(c.groups) <= room {
		return c.open(d)
	}
	c.rest.add(d)
	return other
}

func (c *contract) open(d netip.AddrPort) int32 {
	i := int32(len(c.groups))
	c.groups = append(c.groups, group{})
	c.index[d] = i
	if c.pinned(d) {
		c.pins[d] = struct{}{}
	}
	return i
}

// choice is a destination that is kept.
type choice struct {
	destination netip.AddrPort
	group       *group // of the contract: until its next reset
}

// choose returns the destinations that are kept, pinned and large ones first, the sum
// of all others and how many those are: exactly while there are at most
// candidatesPerSeries+1 times limit destinations, beyond that at least so many.
func (c *contract) choose() (kept []choice, rest group, folded int) {
	candidates := c.candidates[:0]
	for d, i := range c.index {
		if c.groups[i].empty() {
			continue
		}
		rank := c.groups[i].size()
		_, kept := c.kept[d]
		if kept {
			// A newcomer must be larger by a quarter to take a place.
			rank += rank/4 + 1
		}
		_, pinned := c.pins[d]
		candidates = append(candidates, candidate{d, i, pinned, kept, rank})
	}
	c.candidates = candidates
	slices.SortFunc(candidates, candidate.compare)

	keep := min(len(candidates), c.limit)
	kept = make([]choice, 0, keep)
	for _, k := range candidates[:keep] {
		kept = append(kept, choice{k.destination, &c.groups[k.index]})
	}
	rest = c.groups[other]
	for _, k := range candidates[keep:] {
		rest.merge(&c.groups[k.index])
	}
	clear(c.kept)
	for _, k := range kept {
		c.kept[k.destination] = struct{}{}
	}
	return kept, rest, len(candidates) - keep + c.rest.distinct
}

// heavyHitters finds the most frequent destinations of a stream of any length, in
// memory for limit counts (Misra and Gries, 1982): every destination that makes up more
// than one part in limit+1 of the stream is among them.
type heavyHitters struct {
	limit    int
	counts   map[netip.AddrPort]uint32
	distinct int // different destinations so far; from limit+1 on a lower bound
}

func newHeavyHitters(limit int) heavyHitters {
	return heavyHitters{limit: limit, counts: make(map[netip.AddrPort]uint32)}
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
	for known, n := range h.counts {
		if n == 1 {
			delete(h.counts, known)
			continue
		}
		h.counts[known] = n - 1
	}
}
