package actuator

import (
	"sync/atomic"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// blockedAfter is the time after which a system call about a socket of a pod is abandoned: a
// process can hold the lock of its socket for any time.
const blockedAfter = 2 * time.Second

// dial opens a connection to a namespace, to that of a pod with system calls limited in time.
func dial(in hangup.Namespace, blocked *sockdiag.BlockedCalls) (*sockdiag.Conn, error) {
	if in.Pod == nil {
		return sockdiag.DialIn(in.Inode, in.Enter)
	}
	if blocked.Has(in.Inode) {
		return nil, sockdiag.ErrBlocked
	}
	conn, err := sockdiag.DialIn(in.Inode, in.Enter)
	if err == nil {
		conn.Bound(blocked)
	}
	return conn, err
}

// acquired is a duplicate of a target's socket.
type acquired struct {
	fd       int
	returned chan struct{} // of the abandoned call; nil without one
}

// call calls fn with the duplicate, for a pod with a limit of time. After sockdiag.ErrBlocked fn
// may still run, but does not begin any more.
func (a *acquired) call(b *sockdiag.BlockedCalls, in *namespace, fn func(fd int)) error {
	if in.Pod == nil {
		fn(a.fd)
		return nil
	}
	if b.Has(in.Inode) {
		return sockdiag.ErrBlocked
	}
	var begun atomic.Bool
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		if begun.CompareAndSwap(false, true) {
			fn(a.fd)
		}
	}()
	if b.Await(returned, nil) {
		return nil
	}
	begun.Store(true)
	a.returned = returned
	b.Add(in.Inode, returned)
	return sockdiag.ErrBlocked
}

// release closes the duplicate, after the abandoned call: the descriptor must not be reused
// before.
func (a *acquired) release() {
	if a.returned == nil {
		release(a.fd)
		return
	}
	go func() {
		<-a.returned
		release(a.fd)
	}()
}
