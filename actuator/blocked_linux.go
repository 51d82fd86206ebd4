package actuator

import (
	"sync"
	"sync/atomic"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// blockedAfter is the time after which a system call about a socket of a pod is abandoned: a
// process can hold the lock of its socket for any time.
const blockedAfter = 2 * time.Second

// blockedCalls are the network namespaces of pods with an abandoned system call. Each of them
// keeps a thread, so no other call is made in such a namespace before it has returned.
type blockedCalls struct {
	mu      sync.Mutex
	byInode map[uint64]<-chan struct{} // closed when the call has returned
}

// has reports whether a call in the namespace is blocked.
func (b *blockedCalls) has(inode uint64) bool {
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

func (b *blockedCalls) add(inode uint64, returned <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byInode == nil {
		b.byInode = make(map[uint64]<-chan struct{})
	}
	b.byInode[inode] = returned
}

// dial opens a connection to a namespace, to that of a pod with system calls limited in time.
func (b *blockedCalls) dial(in hangup.Namespace) (*sockdiag.Conn, error) {
	if in.Pod == nil {
		return sockdiag.DialIn(in.Inode, in.Enter)
	}
	if b.has(in.Inode) {
		return nil, sockdiag.ErrBlocked
	}
	conn, err := sockdiag.DialIn(in.Inode, in.Enter)
	if err == nil {
		conn.Bound(blockedAfter, func(returned <-chan struct{}) { b.add(in.Inode, returned) })
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
func (a *acquired) call(b *blockedCalls, in *namespace, fn func(fd int)) error {
	if in.Pod == nil {
		fn(a.fd)
		return nil
	}
	var begun atomic.Bool
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		if begun.CompareAndSwap(false, true) {
			fn(a.fd)
		}
	}()
	timer := time.NewTimer(blockedAfter)
	defer timer.Stop()
	select {
	case <-returned:
		return nil
	case <-timer.C:
		begun.Store(true)
		a.returned = returned
		b.add(in.Inode, returned)
		return sockdiag.ErrBlocked
	}
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
