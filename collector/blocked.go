package collector

import (
	"sync"
	"time"
)

// blockedAfter is the time without a flow after which the read of a network namespace is
// abandoned.
const blockedAfter = 2 * time.Second

// revocable forwards flows until it is revoked.
type revocable[T any] struct {
	mu      sync.Mutex
	forward func(T) // nil once it is revoked
}

func (r *revocable[T]) call(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.forward != nil {
		r.forward(v)
	}
}

func (r *revocable[T]) revoke() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forward = nil
}
