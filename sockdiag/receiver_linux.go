package sockdiag

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiver reads datagrams without allocating. unix.Recvfrom allocates a sender address
// for each datagram, and a long dump has thousands.
type receiver struct {
	raw  syscall.RawConn
	read func(fd uintptr) (done bool) // argument of raw.Read
	into []byte
	n    int
	err  error
}

func newReceiver(raw syscall.RawConn) *receiver {
	r := &receiver{raw: raw}
	r.read = func(fd uintptr) bool {
		for {
			n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, fd,
				uintptr(unsafe.Pointer(unsafe.SliceData(r.into))), uintptr(len(r.into)), unix.MSG_TRUNC, 0, 0)
			switch errno {
			case 0:
				r.n, r.err = int(n), nil
				return true
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				r.n, r.err = 0, errno
				return true
			}
		}
	}
	return r
}

func (r *receiver) receive(b []byte) (int, error) {
	r.into = b
	if err := r.raw.Read(r.read); err != nil {
		return 0, err
	}
	return r.n, r.err
}
