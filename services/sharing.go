package services

import (
	"slices"
	"time"

	"tcphup/sockdiag"
)

// firstSeenError is more than the error of first-seen times.
const firstSeenError = time.Second

// sharing describes the flows to a former address of a service that belong to it although
// another service has the address now: those first seen between after and before, both
// since boot. Later flows may have been opened under the name that has the address now,
// earlier ones when that name had it before.
type sharing struct {
	shared        bool
	after, before time.Duration
}

// stale reports whether a flow to a former address belongs to the service of the target.
// A flow of unknown age never does if another service has the address.
func (w *Watcher) stale(t *target, f *sockdiag.Flow) bool {
	if !t.sharing.shared {
		return true
	}
	seen, known := w.firstSeen(f)
	if !known {
		return false
	}
	first := w.boottime() - time.Since(seen)
	return first > t.sharing.after && first < t.sharing.before
}

// Stale reports whether the flow leads to a former address of the name and belongs to it,
// although another service may have the address now.
func (w *Watcher) Stale(name string, f *sockdiag.Flow) bool {
	index := w.flowIndex()
	return slices.ContainsFunc(index.byRemote[f.Remote], func(i int) bool {
		t := &index.targets[i]
		return t.former && index.names[t.service] == canonical(name) && w.stale(t, f)
	})
}

// share sets the sharing of former addresses. While lookups show that another service is
// changing or in rotation, or before its first lookup, no flow is known to be stale. w.mu
// must be held.
func (w *Watcher) share(index *flowIndex) {
	type key struct {
		port   uint16
		family family
	}
	unknown := make(map[key][]*watch) // services without a completed lookup
	for _, entry := range w.watches {
		for _, f := range families {
			if entry.lookups[f].total == 0 {
				k := key{entry.service.Port, f}
				unknown[k] = append(unknown[k], entry)
			}
		}
	}
	for to, indices := range index.byRemote {
		f := familyOf(to.Addr())
		for _, i := range indices {
			t := &index.targets[i]
			if !t.former {
				continue
			}
			s := sharing{before: t.address.had}
			if slices.ContainsFunc(unknown[key{to.Port(), f}], func(other *watch) bool { return other != t.watch }) {
				s.shared, s.before = true, 0
			}
			for _, j := range indices {
				other := &index.targets[j]
				if other.former {
					continue
				}
				s.shared, s.after = true, max(s.after, other.address.lost)
				if s.before = min(s.before, other.address.without); other.watch.history.pending(f) {
					s.before = 0
				}
			}
			t.sharing = s
		}
	}
}
