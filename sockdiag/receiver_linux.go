package sockdiag

import (
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiver reads datagrams without allocating. unix.Recvfrom allocates a sender address
// for each datagram, and a long dump has thousands.
type receiver struct {
	raw   syscall.RawConn
	try   func(fd uintptr)             // argument of raw.Control
	retry func(fd uintptr) (done bool) // argument of raw.Read
	into  []byte
	n     int
	err   error
}

func newReceiver(raw syscall.RawConn) *receiver {
	r := &receiver{raw: raw}
	r.try = func(fd uintptr) {
		for {
			n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, fd,
				uintptr(unsafe.Pointer(unsafe.SliceData(r.into))), uintptr(len(r.into)), unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
			switch errno {
			case 0:
				r.n, r.err = int(n), nil
				return
			case unix.EINTR:
			default:
				r.n, r.err = 0, errno
				return
			}
		}
	}
	r.retry = func(fd uintptr) bool {
		r.try(fd)
		return !errors.Is(r.err, unix.EAGAIN)
	}
	return r
}

// receive reads a datagram into b, and fails with EAGAIN if there is none. The kernel has the
// next datagram of a reply when the request was sent or the last datagram was received.
func (r *receiver) receive(b []byte) (int, error) {
	r.into = b
	if err := r.raw.Control(r.try); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// wait is receive that waits for a datagram, at most until the deadline of the connection.
func (r *receiver) wait(b []byte) (int, error) {
	r.into = b
	if err := r.raw.Read(r.retry); err != nil {
		return 0, err
	}
	return r.n, r.err
}
