package collector

import (
	"context"
	"sync"
	"time"
)

// singleflight runs one scan for concurrent callers. Unlike x/sync/singleflight it
// cancels a scan that no caller waits for. The zero value is ready to use.
type singleflight struct {
	mu      sync.Mutex
	current *call
}

// call is one running scan.
type call struct {
	waiting int // callers that wait for the result; 0 means canceled
	cancel  context.CancelFunc
	done    chan struct{} // closed at the end
	result  *result
	until   time.Time // the latest one of its callers
}

// do returns the result of the running scan, or else of a new one. At most one scan runs
// at any time. It is canceled when the contexts of all callers have ended. do returns
// the cause of its own ctx as soon as that ends.
func (s *singleflight) do(ctx context.Context, scan func(context.Context) *result) (*result, error) {
	return s.doUntil(ctx, time.Time{}, scan)
}

// doUntil is do for a caller that needs the result at a time.
func (s *singleflight) doUntil(ctx context.Context, until time.Time, scan func(context.Context) *result) (*result, error) {
	for {
		c, joined := s.join(ctx, until, scan)
		select {
		case <-c.done:
			if joined {
				return c.result, nil
			}
		case <-ctx.Done():
			if joined {
				s.leave(c)
			}
			return nil, context.Cause(ctx)
		}
	}
}

// join returns the current call, which it starts if there is none. It reports false for
// a canceled call, whose end the caller must wait for.
func (s *singleflight) join(ctx context.Context, until time.Time, scan func(context.Context) *result) (*call, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.current; c != nil {
		if c.waiting == 0 {
			return c, false
		}
		c.waiting++
		if until.After(c.until) {
			c.until = until
		}
		return c, true
	}
	// The scan outlives its first caller while another one waits.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &call{waiting: 1, cancel: cancel, done: make(chan struct{}), until: until}
	s.current = c
	go func() {
		defer cancel()
		c.result = scan(ctx)
		s.mu.Lock()
		s.current = nil
		s.mu.Unlock()
		close(c.done)
	}()
	return c, true
}

// until returns when the last caller of the running scan needs its result: a client with little
// time must not shorten the scan for the others.
func (s *singleflight) until() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return time.Time{}
	}
	return s.current.until
}

func (s *singleflight) leave(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.waiting--; c.waiting == 0 {
		c.cancel()
	}
}
