package collector

import (
	"sync"
	"sync/atomic"
	"time"

	"tcphup/sockdiag"
)

// blockedAfter is the time without a flow after which the read of a network namespace is
// abandoned.
const blockedAfter = 2 * time.Second

// blockedReads are the network namespaces with an abandoned read, which the kernel does not end
// while a process holds the lock of its socket. At most one read of each waits.
type blockedReads struct {
	limit time.Duration

	mu      sync.Mutex
	byInode map[uint64]<-chan struct{} // closed when the read has returned
}

// has reports whether a read of the namespace is blocked.
func (b *blockedReads) has(inode uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.byInode[inode]:
		delete(b.byInode, inode)
		return false
	default:
		return b.byInode[inode] != nil
	}
}

// add adds an abandoned read.
func (b *blockedReads) add(inode uint64, returned <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byInode == nil {
		b.byInode = make(map[uint64]<-chan struct{})
	}
	b.byInode[inode] = returned
}

// bound limits the system calls of a connection to the namespace.
func (b *blockedReads) bound(conn source, inode uint64) {
	if c, ok := conn.(*sockdiag.Conn); ok {
		c.Bound(b.limit, func(returned <-chan struct{}) { b.add(inode, returned) })
	}
}

// await waits for the end of a read. It reports false if the read makes no progress for the
// limit.
func (b *blockedReads) await(returned <-chan struct{}, progress *atomic.Uint64) bool {
	timer := time.NewTimer(b.limit)
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
			timer.Reset(b.limit)
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
