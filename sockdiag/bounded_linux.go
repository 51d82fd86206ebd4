package sockdiag

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrBlocked matches errors about a system call that has not returned in time, because a process
// holds the lock of a socket.
var ErrBlocked = errors.New("kernel does not respond: a process blocks its socket")

// BlockedCalls limits the time of system calls about sockets, and keeps the network namespaces
// with an abandoned one, whose thread waits in the kernel. It is safe for concurrent use.
type BlockedCalls struct {
	// Limit is the time after which a system call is abandoned. It must be positive.
	Limit time.Duration

	mu      sync.Mutex
	byNetns map[uint64]<-chan struct{} // closed when the call has returned
}

// Has reports whether a call in the network namespace is blocked. Then no other one should begin
// there.
func (b *BlockedCalls) Has(netns uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.byNetns[netns]:
		delete(b.byNetns, netns)
		return false
	default:
		return b.byNetns[netns] != nil
	}
}

// Add adds an abandoned call. returned is closed when it returns.
func (b *BlockedCalls) Add(netns uint64, returned <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byNetns == nil {
		b.byNetns = make(map[uint64]<-chan struct{})
	}
	b.byNetns[netns] = returned
}

// awaitSteps are the parts of BlockedCalls.Limit. After a stop of this process (SIGSTOP, or a
// suspended virtual machine) one part is over at once, and a call that was not blocked returns in
// the next one.
const awaitSteps = 4

// Await waits for the end of a call. It reports false if the call does not end, and progress does
// not change, for Limit. A nil progress does not change.
func (b *BlockedCalls) Await(returned <-chan struct{}, progress *atomic.Uint64) bool {
	if progress == nil {
		progress = new(atomic.Uint64)
	}
	tick := time.NewTicker(b.Limit / awaitSteps)
	defer tick.Stop()
	last := progress.Load()
	for idle := 0; idle < awaitSteps; {
		select {
		case <-returned:
			return true
		case <-tick.C:
			idle++
			if now := progress.Load(); now != last {
				last, idle = now, 0
			}
		}
	}
	return false
}

// Bound limits each system call of the connection. The kernel waits for the lock of a socket
// uninterruptibly, and a process can hold the lock of its socket for any time. An abandoned call
// is added to b, and later calls of the connection fail.
func (c *Conn) Bound(b *BlockedCalls) { c.bound = b }

// bounded calls fn within the limit. After ErrBlocked fn may still run, and use the buffer and
// the socket of the connection.
func (c *Conn) bounded(fn func()) error {
	if c.bound == nil {
		fn()
		return nil
	}
	if c.blocked != nil {
		return ErrBlocked
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	if c.bound.Await(done, nil) {
		return nil
	}
	c.blocked = done
	c.bound.Add(c.netns, done)
	return ErrBlocked
}

// receiveBounded is receive within the limit.
func (c *Conn) receiveBounded(buffer []byte) (int, error) {
	if c.bound == nil {
		return c.receive(buffer)
	}
	var received struct {
		n   int
		err error
	}
	if err := c.bounded(func() { received.n, received.err = c.receive(buffer) }); err != nil {
		return 0, err
	}
	return received.n, received.err
}
