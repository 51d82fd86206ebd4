package sockdiag

import (
	"errors"
	"sync"
	"time"
)

// ErrBlocked matches errors about a system call that has not returned in time, because a process
// holds the lock of a socket.
var ErrBlocked = errors.New("kernel does not respond: a process blocks its socket")

// BlockedCalls limits the time of system calls about sockets, and keeps the network namespaces
// with an abandoned one, whose thread waits in the kernel. It is safe for concurrent use.
type BlockedCalls struct {
	// Limit is the time after which a system call is abandoned; 0 means never.
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

// Bound limits each system call of the connection. The kernel waits for the lock of a socket
// uninterruptibly, and a process can hold the lock of its socket for any time. An abandoned call
// is added to b, and later calls of the connection fail.
func (c *Conn) Bound(b *BlockedCalls) { c.bound = b }

// bounded calls fn within the limit. After ErrBlocked fn may still run, and use the buffer and
// the socket of the connection.
func (c *Conn) bounded(fn func()) error {
	if c.bound == nil || c.bound.Limit == 0 {
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
	timer := time.NewTimer(c.bound.Limit)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		c.blocked = done
		c.bound.Add(c.netns, done)
		return ErrBlocked
	}
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
