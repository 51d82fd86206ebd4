package server

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxResponses is the number of large responses at a time. With 500 destinations each
	// takes 2 MB of memory.
	maxResponses = 8
	// slowResponse is the age from which a response may be aborted in favor of others.
	slowResponse = time.Second
	// maxWait is how long a request may wait for a slot.
	maxWait = 5 * time.Second
)

// responseLimiter bounds the number of large responses at a time. It aborts slow
// responses if other requests wait.
type responseLimiter struct {
	slots chan struct{} // holds an element per running response

	mu      sync.Mutex
	running []*response // oldest first
}

type response struct {
	controller *http.ResponseController
	start      time.Time
}

func newResponseLimiter(limit int) *responseLimiter {
	return &responseLimiter{slots: make(chan struct{}, limit)}
}

// limit wraps a handler. A request that gets no slot within maxWait is answered with 503.
func (l *responseLimiter) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !l.takeSlot(r.Context()) {
			http.Error(w, "too many concurrent requests", http.StatusServiceUnavailable)
			return
		}
		defer func() { <-l.slots }()
		current := &response{http.NewResponseController(w), time.Now()}
		l.mu.Lock()
		l.running = append(l.running, current)
		l.mu.Unlock()
		defer l.remove(current)
		next.ServeHTTP(w, r)
	})
}

// takeSlot waits up to maxWait for a slot and reports whether it got one.
func (l *responseLimiter) takeSlot(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	ticker := time.NewTicker(slowResponse)
	defer ticker.Stop()
	for {
		l.abortSlowest()
		select {
		case l.slots <- struct{}{}:
			return true
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
}

// abortSlowest aborts the oldest response if all slots are taken and it is slow.
func (l *responseLimiter) abortSlowest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.running) == cap(l.slots) && time.Since(l.running[0].start) > slowResponse {
		_ = l.running[0].controller.SetWriteDeadline(time.Unix(1, 0)) // its next write fails
		l.running = l.running[1:]
	}
}

func (l *responseLimiter) remove(r *response) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = slices.DeleteFunc(l.running, func(other *response) bool { return other == r })
}
