package alerts

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// keyedLock serializes actions by target. Overlapping targets exclude each other, also
// across policies: a prefix waits for an address inside it. The zero value is ready to
// use.
type keyedLock struct {
	mu    sync.Mutex
	held  []*target
	freed chan struct{} // closed and replaced at each release
}

// acquire waits until no overlapping target is locked and locks t. It returns the unlock
// function, or the cause of ctx when ctx ends first.
func (l *keyedLock) acquire(ctx context.Context, t *target) (release func(), err error) {
	for {
		freed, ok := l.try(t)
		if ok {
			return func() { l.release(t) }, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// try locks t, or returns a channel that is closed at the next release.
func (l *keyedLock) try(t *target) (freed <-chan struct{}, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.freed == nil {
		l.freed = make(chan struct{})
	}
	if slices.ContainsFunc(l.held, t.overlaps) {
		return l.freed, false
	}
	l.held = append(l.held, t)
	return nil, true
}

func (l *keyedLock) release(t *target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.held, t)
	l.held = slices.Delete(l.held, i, i+1)
	close(l.freed)
	l.freed = make(chan struct{})
}

// overlaps reports whether a flow can match both targets.
func (t *target) overlaps(other *target) bool {
	if t.namespace != other.namespace || t.pod != "" && other.pod != "" && t.pod != other.pod {
		return false
	}
	if t.destination == other.destination && t.port == other.port {
		return true // prefixes differ when the service moved in between
	}
	if len(t.ports) > 0 && len(other.ports) > 0 &&
		!slices.ContainsFunc(t.ports, func(p uint16) bool { return slices.Contains(other.ports, p) }) {
		return false
	}
	return slices.ContainsFunc(t.prefixes, func(p netip.Prefix) bool {
		return slices.ContainsFunc(other.prefixes, p.Overlaps)
	})
}
