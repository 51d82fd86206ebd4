package actuator

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
)

var (
	errIdentity = errors.New("descriptor no longer refers to the selected socket")
	errListener = errors.New("socket is a listener")
)

// duplicate duplicates the holder's descriptor and verifies that it is the flow's socket;
// shutDownAcquired verifies its addresses. The caller must release it. Errors match
// errIdentity, errListener or the errno; unix.ESRCH and unix.EBADF mean that the process
// exited or closed the descriptor.
//
// It needs Linux 5.6 (pidfd_getfd(2)) and PTRACE_MODE_ATTACH_REALCREDS access: the
// holder's uid and gid, or CAP_SYS_PTRACE. The seccomp profile and the Yama setting must
// allow it.
func duplicate(h holder, flow *sockdiag.Flow) (int, error) {
	pidfd, err := h.openPidfd()
	if err != nil {
		return -1, fmt.Errorf("open pidfd of process %d: %w", h.pid, err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, h.fd, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate descriptor %d of process %d: %w", h.fd, h.pid, err)
	}
	if err := verify(fd, flow); err != nil {
		release(fd)
		return -1, fmt.Errorf("descriptor %d of process %d: %w", h.fd, h.pid, err)
	}
	return fd, nil
}

// releaseWait bounds the wait for a close.
const releaseWait = 100 * time.Millisecond

// release closes a duplicate and waits at most releaseWait, because the owner controls
// how long a close blocks. Its descriptor may refer to a file on a FUSE or NFS server by
// now, and the last close of a socket with SO_LINGER waits for its data.
func release(fd int) {
	if linger, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER); err == nil && linger.Onoff == 0 {
		_ = unix.Close(fd)
		return
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = unix.Close(fd)
	}()
	wait := time.NewTimer(releaseWait)
	defer wait.Stop()
	select {
	case <-closed:
	case <-wait.C:
	}
}

// verify returns nil if fd has the cookie of the flow and is not a listener. A socket
// keeps its cookie when it is connected again.
func verify(fd int, flow *sockdiag.Flow) error {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	switch {
	case errors.Is(err, unix.ENOTSOCK), err == nil && cookie != flow.Cookie:
		return errIdentity
	case err != nil:
		return fmt.Errorf("read SO_COOKIE: %w", err)
	}
	accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	switch {
	case err != nil:
		return fmt.Errorf("read SO_ACCEPTCONN: %w", err)
	case accepts != 0:
		return errListener
	}
	return nil
}

// socketAddresses are the results of getsockname(2) and getpeername(2); an address that
// could not be read is invalid. BPF programs may rewrite them, so they are comparable
// only for one socket.
type socketAddresses struct {
	local, remote netip.AddrPort
	// segments counts the segments sent and received; 0 for MPTCP. A socket that is
	// disconnected begins anew.
	segments uint64
}

func readAddresses(fd int) socketAddresses {
	var a socketAddresses
	if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil && protocol == unix.IPPROTO_TCP {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			a.segments = uint64(info.Segs_in) + uint64(info.Segs_out)
		}
	}
	if sa, err := unix.Getsockname(fd); err == nil {
		a.local = addrPort(sa)
	}
	if sa, err := unix.Getpeername(fd); err == nil {
		a.remote = addrPort(sa)
	}
	return a
}

// differ reports whether the application disconnected the socket between a and b. A socket
// has no peer while it is connecting, and once its connection has ended. It keeps its local
// address until connect(2) with AF_UNSPEC, or shutdown(2) while it is connecting. The next
// connection may get that address again: then it has fewer segments.
func (a socketAddresses) differ(b socketAddresses) bool {
	if a.remote.IsValid() && (b.remote.IsValid() && a.remote != b.remote || b.segments < a.segments) {
		return true
	}
	return a.local != b.local && (a.remote.IsValid() || !b.local.Addr().IsUnspecified())
}

func (a socketAddresses) String() string {
	if !a.remote.IsValid() {
		return a.local.String() + ", not connected"
	}
	return a.local.String() + " to " + a.remote.String()
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	default:
		return netip.AddrPort{}
	}
}

// setUserTimeout limits how long a flow may be unacknowledged or its peer's window
// closed, before the kernel closes the flow (TCP_USER_TIMEOUT, RFC 5482). A linger of 0
// keeps the kernel default, and a shorter timeout of the application is kept as well.
// MPTCP sockets do not have the option, which is not an error.
func setUserTimeout(fd int, linger time.Duration) error {
	if linger <= 0 {
		return nil
	}
	own, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	// The option is an int in milliseconds, and the kernel adds to it.
	if ms := int(min(max(linger.Milliseconds(), 1), math.MaxInt32/2)); err == nil && (own == 0 || own > ms) {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms)
	}
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}

// unreadMPTCP returns the unread bytes of an MPTCP connection, whose receive queue in a
// dump counts memory; before Linux 5.17 it returns that queue. For TCP it returns 0.
func unreadMPTCP(fd int, flow *sockdiag.Flow) (uint32, error) {
	if flow.Protocol != sockdiag.MPTCP {
		return 0, nil
	}
	unread, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	switch {
	case errors.Is(err, unix.ENOTTY):
		return flow.ReceiveQueue, nil
	case err != nil:
		return 0, fmt.Errorf("read SIOCINQ: %w", err)
	}
	return uint32(unread), nil
}
