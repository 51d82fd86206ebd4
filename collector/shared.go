package collector

import (
	"context"
	"sync"
)

// shared lets scrapes that come at the same time share one pass. The zero value
// is ready for use.
type shared struct {
	mu      sync.Mutex
	current *run
}

// run is one pass that is under way.
type run struct {
	waiting int // scrapes that want the result; at 0 it is given up
	cancel  context.CancelFunc
	done    chan struct{} // closed at the end
	result  *result
}

// do returns the result of the pass that is under way, or else of a new one. At
// most one runs at any time. It ends when it is done or when the contexts of all
// who wait for it are; do itself returns an error as soon as its own ctx ends.
func (s *shared) do(ctx context.Context, pass func(context.Context) *result) (*result, error) {
	for {
		r, joined := s.join(ctx, pass)
		select {
		case <-r.done:
			if joined {
				return r.result, nil
			}
		case <-ctx.Done():
			if joined {
				s.leave(r)
			}
			return nil, context.Cause(ctx)
		}
	}
}

// join returns the present run and reports false when it has been given up and
// its end is all that can be waited for.
func (s *shared) join(ctx context.Context, pass func(context.Context) *result) (*run, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.current; r != nil {
		if r.waiting == 0 {
			return r, false
		}
		r.waiting++
		return r, true
	}
	// The pass outlives the scrape that began it if another one waits for it too.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &run{waiting: 1, cancel: cancel, done: make(chan struct{})}
	s.current = r
	go func() {
		defer cancel()
		r.result = pass(ctx)
		s.mu.Lock()
		s.current = nil
		s.mu.Unlock()
		close(r.done)
	}()
	return r, true
}

func (s *shared) leave(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.waiting--; r.waiting == 0 {
		r.cancel()
	}
}
