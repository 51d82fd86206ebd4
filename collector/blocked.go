package collector

import (
	"sync"
	"sync/atomic"
	"time"
)

// blockedAfter is the time without a flow after which the read of a network namespace is
// abandoned.
const blockedAfter = 2 * time.Second

// await waits for the end of a read. It reports false if the read makes no progress for
// blocked.Limit.
func (n *node) await(returned <-chan struct{}, progress *atomic.Uint64) bool {
	timer := time.NewTimer(n.blocked.Limit)
	defer timer.Stop()
	for {
		before := progress.Load()
		select {
		case <-returned:
			return true
		case <-timer.C:
			if progress.Load() == before {
				return false
			}
			timer.Reset(n.blocked.Limit)
		}
	}
}

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
