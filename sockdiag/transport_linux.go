package sockdiag

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// receiveTimeout bounds each netlink receive.
	receiveTimeout = 10 * time.Second

	// waitStep is the longest time from the end of a context to that of a blocked receive.
	waitStep = 50 * time.Millisecond
)

// transport is a sock_diag socket, connected to the kernel. It does not block: the kernel has the
// next datagram of a reply when the request was sent or the last datagram was received. So it
// needs no poller, and few system calls to open and close.
type transport struct {
	fd               int
	portID, sequence uint32
}

// openTransport opens a socket in the network namespace of the calling thread. Once it is
// connected to port id 0, the kernel rejects messages from any other socket with ECONNREFUSED
// (netlink(7)).
func openTransport() (*transport, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, fmt.Errorf("open sock_diag: %w: %w", err, errors.ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	var name unix.Sockaddr
	if err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		name, err = unix.Getsockname(fd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open sock_diag: %w", err), unix.Close(fd))
	}
	return &transport{fd: fd, portID: name.(*unix.SockaddrNetlink).Pid}, nil
}

// close closes the socket. It must not be used afterwards.
func (s *transport) close() error {
	if err := unix.Close(s.fd); err != nil {
		return fmt.Errorf("close sock_diag: %w", err)
	}
	return nil
}

// send sends one request and returns its reply.
func (s *transport) send(kind netlink.HeaderType, flags netlink.HeaderFlags, payload []byte) (*reply, error) {
	s.sequence++
	b := make([]byte, headerLen, headerLen+len(payload)) // struct nlmsghdr
	binary.NativeEndian.PutUint32(b, uint32(headerLen+len(payload)))
	binary.NativeEndian.PutUint16(b[4:], uint16(kind))
	binary.NativeEndian.PutUint16(b[6:], uint16(flags))
	binary.NativeEndian.PutUint32(b[8:], s.sequence)
	binary.NativeEndian.PutUint32(b[12:], s.portID)
	b = append(b, payload...)
	for {
		_, err := unix.SendmsgN(s.fd, b, nil, nil, 0)
		switch {
		case err == nil:
			return &reply{sequence: s.sequence, portID: s.portID}, nil
		case !errors.Is(err, unix.EINTR):
			return nil, fmt.Errorf("send request: %w", err)
		}
	}
}

// receive reads one datagram into b and returns its full length, which may exceed len(b).
// unix.Recvfrom allocates a sender address for each datagram, and a long dump has thousands.
func (s *transport) receive(b []byte) (int, error) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(s.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_TRUNC, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// wait waits for a datagram after EAGAIN, at most receiveTimeout.
func (s *transport) wait(ctx context.Context) error {
	end := time.Now().Add(receiveTimeout)
	for {
		left := min(time.Until(end), waitStep)
		if err := ctx.Err(); err != nil {
			return err
		}
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
