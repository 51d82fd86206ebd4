package alerts

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// claims lets one action at a time touch a destination. Whatever overlaps waits,
// also a prefix that contains an address which is being worked on, and also when
// another policy works on it. The zero value is ready for use.
type claims struct {
	mu    sync.Mutex
	held  []*target
	freed chan struct{} // closed and replaced whenever a claim is given back
}

// acquire waits until no overlapping target is held and takes this one. It returns
// the function that gives it back, or the cause when ctx ends first.
func (c *claims) acquire(ctx context.Context, t *target) (release func(), err error) {
	for {
		freed, ok := c.try(t)
		if ok {
			return func() { c.release(t) }, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (c *claims) try(t *target) (freed <-chan struct{}, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.freed == nil {
		c.freed = make(chan struct{})
	}
	if slices.ContainsFunc(c.held, t.overlaps) {
		return c.freed, false
	}
	c.held = append(c.held, t)
	return nil, true
}

func (c *claims) release(t *target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.held, t)
	c.held = slices.Delete(c.held, i, i+1)
	close(c.freed)
	c.freed = make(chan struct{})
}

// overlaps reports whether a flow could belong to both targets.
func (t *target) overlaps(other *target) bool {
	if t.key() == other.key() {
		return true // a service's addresses may have changed in between
	}
	if len(t.ports) > 0 && len(other.ports) > 0 &&
		!slices.ContainsFunc(t.ports, func(p uint16) bool { return slices.Contains(other.ports, p) }) {
		return false
	}
	return slices.ContainsFunc(t.prefixes, func(p netip.Prefix) bool {
		return slices.ContainsFunc(other.prefixes, p.Overlaps)
	})
}
