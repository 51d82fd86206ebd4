package services

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"
)

const (
	// falseFormer is the accepted probability that an address in rotation is taken for a
	// former one.
	falseFormer = 1e-6

	// keepFormer is how long a former address is kept after its last flow.
	keepFormer = 24 * time.Hour

	// maxAddresses limits the addresses of a name, maxAnswer those of one response.
	maxAddresses = 512
	maxAnswer    = 256
)

// history holds the current and former addresses of a name. It has no clock and no lock.
// The zero history is empty and ready to use.
type history struct {
	settle    time.Duration
	addresses map[netip.Addr]*address
	changed   time.Time // last change of an address; zero without one
	answered  [len(families)]bool
	asked     [len(families)]time.Duration // last successful lookup, since boot; 0 if unknown
	loaded    bool                         // from a state file
}

// address is a current or former address of a name.
type address struct {
	former bool
	// missing counts the consecutive responses without a current address, absent is the
	// time of the first. Both are zero without one, and for a former address.
	missing int
	absent  time.Time
	// since is when it became former; zero for a current address or if unknown.
	since time.Time
	// lastFlow is the last time a flow to the former address was observed, initially since.
	lastFlow time.Time
	sockets  uint32 // sockets to the address in the last scan, without those of other services
	shared   uint32 // further sockets to the former address that may belong to another service

	// had is the last lookup with the address, without the last lookup before the name got
	// it. Both are times since boot; 0 if unknown.
	had, without time.Duration
	// lost is 0 if the name got the address for the first time. Otherwise, flows first seen
	// after it were opened after the name had lost the address; never until a complete scan.
	lost time.Duration
}

// never is later than every time since boot.
const never = time.Duration(math.MaxInt64)

type event struct {
	addr netip.Addr
	kind string
}

// The kinds of events, which are log keys.
const (
	added    = "added"    // new or expired before
	returned = "returned" // former before
	removed  = "removed"  // former now
)

// update applies the addresses of one family; an empty list means that the name has none.
// The first update of a family does not set changed, unless the history is from a state
// file. An address becomes former when it was missing for settle, and in more consecutive
// responses than rotation of the family's addresses explains. Failed lookups and time
// without lookups do not count. The lookup began at asked, since boot.
func (h *history) update(now time.Time, asked time.Duration, f family, addrs []netip.Addr) (events []event) {
	first := !h.answered[f] && !h.loaded
	h.answered[f] = true
	without := h.asked[f]
	h.asked[f] = asked
	if h.addresses == nil {
		h.addresses = make(map[netip.Addr]*address)
	}
	here := make(map[netip.Addr]bool, len(addrs))
	for _, addr := range addrs {
		here[addr] = true
		switch a := h.addresses[addr]; {
		case a == nil:
			h.addresses[addr] = &address{had: asked, without: without}
			events = append(events, event{addr, added})
		case a.former:
			*a = address{sockets: a.sockets, had: asked, without: without, lost: a.lost}
			events = append(events, event{addr, returned})
		default:
			a.missing, a.absent, a.had = 0, time.Time{}, asked
		}
	}
	all := 0
	for addr, a := range h.addresses {
		if !a.former && familyOf(addr) == f {
			all++
		}
	}
	for addr, a := range h.addresses {
		if a.former || here[addr] || familyOf(addr) != f {
			continue
		}
		if a.missing == 0 {
			a.absent = now
		}
		a.missing++
		if now.Sub(a.absent) >= h.settle && a.missing >= requiredMisses(len(addrs), all) {
			*a = address{former: true, since: now, lastFlow: now, sockets: a.sockets, had: a.had, lost: never}
			events = append(events, event{addr, removed})
		}
	}
	h.trim()
	if len(events) > 0 && !first {
		h.changed = now
	}
	return events
}

// requiredMisses returns the number of consecutive responses without an address that make
// it former, where each response has per of all addresses. With responses drawn at random,
// the probability that all of them lack the address is at most falseFormer.
func requiredMisses(per, all int) int {
	if per >= all || per == 0 {
		return 1
	}
	return int(math.Ceil(math.Log(falseFormer) / math.Log1p(-float64(per)/float64(all))))
}

// pending reports whether an address of the family is missing but not yet former.
func (h *history) pending(f family) bool {
	for addr, a := range h.addresses {
		if a.missing > 0 && familyOf(addr) == f {
			return true
		}
	}
	return false
}

// count sets the number of sockets to the address, of those that may belong to another
// service, and of those that belong to it.
func (a *address) count(now time.Time, sockets, shared, others uint32) {
	a.sockets, a.shared = sockets, shared
	if a.former && sockets+shared+others > 0 {
		a.lastFlow = now
	}
}

// expire deletes former addresses without a flow for longer than keep and reports whether
// it deleted any.
func (h *history) expire(now time.Time, keep time.Duration) bool {
	before := len(h.addresses)
	maps.DeleteFunc(h.addresses, func(_ netip.Addr, a *address) bool {
		return a.former && now.Sub(a.lastFlow) > keep
	})
	return len(h.addresses) < before
}

// trim limits the history to maxAddresses. It deletes the addresses that were missing or
// without a flow for longest. Addresses of the last response stay.
func (h *history) trim() {
	if len(h.addresses) <= maxAddresses {
		return
	}
	var gone []netip.Addr
	for addr, a := range h.addresses {
		if a.former || a.missing > 0 {
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

// lastUse orders the addresses that are not in the last response, for trim.
func (a *address) lastUse() time.Time {
	if a.former {
		return a.lastFlow
	}
	return a.absent
}

// answers returns current and former addresses, sorted, of the families with a successful
// lookup since the start.
func (h *history) answers() (current, former []netip.Addr) {
	unanswered := func(a netip.Addr) bool { return !h.answered[familyOf(a)] }
	current, former = h.list()
	return slices.DeleteFunc(current, unanswered), slices.DeleteFunc(former, unanswered)
}

// list returns the current and former addresses, sorted.
func (h *history) list() (current, former []netip.Addr) {
	for addr, a := range h.addresses {
		if a.former {
			former = append(former, addr)
		} else {
			current = append(current, addr)
		}
	}
	slices.SortFunc(current, netip.Addr.Compare)
	slices.SortFunc(former, netip.Addr.Compare)
	return current, former
}
