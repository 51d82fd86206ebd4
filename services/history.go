package services

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"
)

const (
	// mistake is how likely it may be that an address which a name still has in
	// rotation is taken for one that it has given up.
	mistake = 1e-6

	// maxAddresses bounds what is remembered of one name. A single answer has
	// maxAnswer addresses at most.
	maxAddresses = 512
	maxAnswer    = 256
)

// history is what is known of the addresses of a name. It has no clock and no
// lock of its own. The zero history knows nothing.
type history struct {
	settle    time.Duration
	addresses map[netip.Addr]*address
	changed   time.Time // when an address last came or went; zero: never
	answered  [len(families)]bool
	loaded    bool // from a state file
}

// address is one that the name has or had.
type address struct {
	former bool
	// missing counts the answers in a row without the address, the first of them
	// at absent. They do not count any more for a former one.
	missing int
	absent  time.Time
	// since is when it became former; zero: it is current, or nobody has noted when.
	since time.Time
	// lastFlow is when a flow to the former address was last seen, or else when it
	// became former.
	lastFlow time.Time
	sockets  uint32 // that lead to it, by the last pass over the flows
}

// event is a change of one address.
type event struct {
	addr netip.Addr
	kind string
}

// The kinds of events.
const (
	came     = "came"     // never seen before, or forgotten
	cameBack = "returned" // was former
	left     = "left"     // is former now
)

// take records the addresses of one family; none means that the name has none. The
// first answer of a family is no change. An address becomes former when it has been
// missing for settle, and from so many answers in a row that rotation among all of the
// name's addresses of its family does not explain it. Failed lookups and times without
// lookups do not count.
func (h *history) take(now time.Time, f family, addrs []netip.Addr) (events []event) {
	first := !h.answered[f] && !h.loaded
	h.answered[f] = true
	if h.addresses == nil {
		h.addresses = make(map[netip.Addr]*address)
	}
	here := make(map[netip.Addr]bool, len(addrs))
	for _, addr := range addrs {
		here[addr] = true
		switch known := h.addresses[addr]; {
		case known == nil:
			h.addresses[addr] = &address{}
			events = append(events, event{addr, came})
		case known.former:
			*known = address{sockets: known.sockets}
			events = append(events, event{addr, cameBack})
		default:
			known.missing = 0
		}
	}
	all := 0
	for addr, known := range h.addresses {
		if !known.former && familyOf(addr) == f {
			all++
		}
	}
	for addr, known := range h.addresses {
		if known.former || here[addr] || familyOf(addr) != f {
			continue
		}
		if known.missing == 0 {
			known.absent = now
		}
		known.missing++
		if now.Sub(known.absent) >= h.settle && known.missing >= enough(len(addrs), all) {
			*known = address{former: true, since: now, lastFlow: now, sockets: known.sockets}
			events = append(events, event{addr, left})
		}
	}
	h.trim()
	if len(events) > 0 && !first {
		h.changed = now
	}
	return events
}

// enough returns in how many answers in a row an address must be missing, when
// each holds so many of all of them: as many as make it a mistake's chance that
// answers drawn at random would all have left it out.
func enough(per, all int) int {
	if per >= all || per == 0 {
		return 1
	}
	return int(math.Ceil(math.Log(mistake) / math.Log1p(-float64(per)/float64(all))))
}

// unsure reports whether an address of the family is missing and not yet former.
func (h *history) unsure(f family) bool {
	for addr, known := range h.addresses {
		if known.missing > 0 && familyOf(addr) == f {
			return true
		}
	}
	return false
}

// count notes how many sockets were seen to lead to the address.
func (a *address) count(now time.Time, sockets uint32) {
	a.sockets = sockets
	if a.former && sockets > 0 {
		a.lastFlow = now
	}
}

// forget drops the former addresses that had no flow for so long and reports
// whether there were any.
func (h *history) forget(now time.Time, keep time.Duration) bool {
	before := len(h.addresses)
	for addr, known := range h.addresses {
		if known.former && now.Sub(known.lastFlow) > keep {
			delete(h.addresses, addr)
		}
	}
	return len(h.addresses) < before
}

// trim keeps the history within maxAddresses: what goes first has been missing, or
// as a former address without a flow, for longest. What is in the last answer
// stays.
func (h *history) trim() {
	if len(h.addresses) <= maxAddresses {
		return
	}
	var gone []netip.Addr
	for addr, known := range h.addresses {
		if known.former || known.missing > 0 {
			gone = append(gone, addr)
		}
	}
	slices.SortFunc(gone, func(x, y netip.Addr) int {
		a, b := h.addresses[x], h.addresses[y]
		return cmp.Or(a.lastUse().Compare(b.lastUse()), x.Compare(y))
	})
	for _, addr := range gone[:min(len(gone), len(h.addresses)-maxAddresses)] {
		delete(h.addresses, addr)
	}
}

// lastUse is when an address that is not in the last answer was last of use.
func (a *address) lastUse() time.Time {
	if a.former {
		return a.lastFlow
	}
	return a.absent
}

// answers returns the addresses of the families that were answered since the start, both
// sorted. What a state file has of the others may be out of date.
func (h *history) answers() (current, former []netip.Addr) {
	unanswered := func(a netip.Addr) bool { return !h.answered[familyOf(a)] }
	current, former = h.list()
	return slices.DeleteFunc(current, unanswered), slices.DeleteFunc(former, unanswered)
}

// list returns the addresses, sorted.
func (h *history) list() (current, former []netip.Addr) {
	for addr, known := range h.addresses {
		if known.former {
			former = append(former, addr)
		} else {
			current = append(current, addr)
		}
	}
	slices.SortFunc(current, netip.Addr.Compare)
	slices.SortFunc(former, netip.Addr.Compare)
	return current, former
}
