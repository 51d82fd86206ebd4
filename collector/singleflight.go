package collector

import (
	"context"
	"sync"
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
}

// do returns the result of the running scan, or else of a new one. At most one scan runs
// at any time. It is canceled when the contexts of all callers have ended. do returns
// the cause of its own ctx as soon as that ends.
func (s *singleflight) do(ctx context.Context, scan func(context.Context) *result) (*result, error) {
	for {
		c, joined := s.join(ctx, scan)
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
func (s *singleflight) join(ctx context.Context, scan func(context.Context) *result) (*call, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.current; c != nil {
		if c.waiting == 0 {
			return c, false
		}
		c.waiting++
		return c, true
	}
	// The scan outlives its first caller while another one waits.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &call{waiting: 1, cancel: cancel, done: make(chan struct{})}
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

func (s *singleflight) leave(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.waiting--; c.waiting == 0 {
		c.cancel()
	}
}
