package collector

import (
	"context"
	"sync"
)

// shared lets scrapes that come at the same time share one pass, and one pass after
// the other the memory of its result. The zero value is ready for use.
type shared struct {
	mu      sync.Mutex
	current *run
	spare   *page // nobody reads it any more; may be nil
}

// run is one pass, under way or done.
type run struct {
	users  int // scrapes that wait for the result or read it
	cancel context.CancelFunc
	done   chan struct{} // closed at the end
	result *page
}

// do returns the result of the pass that is under way, or else of a new one, and how
// to release it: it is not to be read after that. At most one pass runs at any time.
// It ends when it is done or when the contexts of all who wait for it are; do itself
// returns an error as soon as its own ctx ends.
func (s *shared) do(ctx context.Context, pass func(context.Context, *page)) (result *page, release func(), err error) {
	for {
		r, joined := s.join(ctx, pass)
		select {
		case <-r.done:
			if joined {
				return r.result, func() { s.leave(r) }, nil
			}
		case <-ctx.Done():
			if joined {
				s.leave(r)
			}
			return nil, nil, context.Cause(ctx)
		}
	}
}

// join returns the present run and reports false when it has been given up and
// its end is all that can be waited for.
func (s *shared) join(ctx context.Context, pass func(context.Context, *page)) (*run, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.current; r != nil {
		if r.users == 0 {
			return r, false
		}
		r.users++
		return r, true
	}
	// The pass outlives the scrape that began it if another one waits for it too.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &run{users: 1, cancel: cancel, done: make(chan struct{}), result: s.spare}
	if s.spare = nil; r.result == nil {
		r.result = new(page)
	}
	s.current = r
	go func() {
		defer cancel()
		pass(ctx, r.result)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.current = nil
		s.recycle(r)
		close(r.done)
	}()
	return r, true
}

// leave is for a scrape that needs the result no more.
func (s *shared) leave(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.users--; r.users > 0 {
		return
	}
	r.cancel()
	s.recycle(r)
}

// recycle keeps the memory of a run that is over and has no users. s.mu is held.
func (s *shared) recycle(r *run) {
	if r.users == 0 && s.current != r {
		s.spare, r.result = r.result, nil
	}
}
