package sockdiag

import (
	"errors"
	"time"
)

// ErrBlocked matches errors about a system call that has not returned in time, because a process
// holds the lock of a socket.
var ErrBlocked = errors.New("kernel does not respond: a process blocks its socket")

// Bound limits the time of each system call. The kernel waits for the lock of a socket
// uninterruptibly, and a process can hold the lock of its socket for any time. After the limit
// the thread of the system call is abandoned, and later calls of the connection fail. 0 means
// no limit. onBlocked receives a channel that is closed when the system call has returned.
func (c *Conn) Bound(limit time.Duration, onBlocked func(returned <-chan struct{})) {
	c.limit, c.onBlocked = limit, onBlocked
}

// bounded calls fn within the limit. After ErrBlocked fn may still run, and use the buffer and
// the socket of the connection.
func (c *Conn) bounded(fn func()) error {
	if c.limit == 0 {
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
	timer := time.NewTimer(c.limit)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		c.blocked = done
		c.onBlocked(done)
		return ErrBlocked
	}
}

// receiveBounded is receive within the limit.
func (c *Conn) receiveBounded(buffer []byte) (int, error) {
	if c.limit == 0 {
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
