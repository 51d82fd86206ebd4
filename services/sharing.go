package services

import (
	"slices"
	"time"

	"tcphup/sockdiag"
)

// firstSeenError is more than the error of first-seen times.
const firstSeenError = 200 * time.Millisecond

// sharing describes the flows to a former address of a service that another service may have
// now. Those first seen between after and before belong to the former one. Later flows may
// have been opened under the name that has the address now, earlier ones when that name had
// it before. Those first seen after lost belong to the other one. All are times since boot.
type sharing struct {
	shared              bool
	after, before, lost time.Duration
}

// ownership is the service to which a flow to a former address belongs.
type ownership int

const (
	unknown ownership = iota
	own
	other // of the service that has the address now
)

// owner returns the ownership of a flow to the target's former address; unknown for a flow
// of unknown age if another service has the address.
func (w *Watcher) owner(t *target, f *sockdiag.Flow) ownership {
	if !t.sharing.shared {
		return own
	}
	seen, known := w.firstSeen(f)
	if !known {
		return unknown
	}
	first := w.boottime() - time.Since(seen)
	switch after := t.sharing.after; {
	case first > after && first < t.sharing.before && (after == 0 || w.followed(f)):
		return own
	case first > t.sharing.lost && w.followed(f):
		return other
	default:
		return unknown
	}
}

// followed reports whether the first-seen time of a flow shows that it was opened after an
// earlier complete scan. In another network namespace, scans may have skipped the namespace,
// or may not have found it: then the flow may be of any age.
func (w *Watcher) followed(f *sockdiag.Flow) bool {
	if f.Netns == 0 {
		return true
	}
	_, known := w.establishedAfter(f)
	return known
}

// ownerOf returns the ownership of a flow for a name, and false if it does not lead to a
// former address of the name.
func (w *Watcher) ownerOf(name string, f *sockdiag.Flow) (ownership, bool) {
	index := w.flowIndex()
	for _, i := range index.byRemote[f.Remote] {
		if t := &index.targets[i]; t.former && index.names[t.service] == canonical(name) {
			return w.owner(t, f), true
		}
	}
	return unknown, false
}

// Stale reports whether the flow leads to a former address of the name and belongs to it,
// although another service may have the address now.
func (w *Watcher) Stale(name string, f *sockdiag.Flow) bool {
	owner, former := w.ownerOf(name, f)
	return former && owner == own
}

// Other reports whether the flow leads to a former address of the name and belongs to
// another service: it was opened after the name had lost the address.
func (w *Watcher) Other(name string, f *sockdiag.Flow) bool {
	owner, former := w.ownerOf(name, f)
	return former && owner == other
}

// share sets the sharing of former addresses. While lookups show that another service is
// changing or in rotation, or before its first lookup, no flow is known to be stale. w.mu
// must be held.
func (w *Watcher) share(index *flowIndex) {
	type key struct {
		port   uint16
		family family
	}
	pending := make(map[key][]*watch) // services without a completed lookup
	for _, entry := range w.watches {
		for _, f := range families {
			if entry.lookups[f].total == 0 {
				k := key{entry.service.Port, f}
				pending[k] = append(pending[k], entry)
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
			s := sharing{before: t.address.had, lost: t.address.lost}
			if slices.ContainsFunc(pending[key{to.Port(), f}], func(w *watch) bool { return w != t.watch }) {
				s.shared, s.before = true, 0
			}
			for _, j := range indices {
				now := &index.targets[j] // of another service
				if now.former {
					continue
				}
				s.shared, s.after = true, max(s.after, now.address.lost)
				if s.before = min(s.before, now.address.without); now.watch.history.pending(f) {
					s.before = 0
				}
			}
			t.sharing = s
		}
	}
}
