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
	errIdentity = errors.New("the descriptor no longer leads to the socket that was chosen")
	errListener = errors.New("the socket accepts connections")
)

// duplicate returns a descriptor of our own for the socket that the holder has, if it has
// the flow's cookie and is no listener. The socket may still lead elsewhere, for it may
// be disconnected and connected anew: shutDownAcquired looks its addresses up. The caller
// gives it to release. Errors answer errors.Is with errIdentity, errListener and those of
// the kernel; unix.ESRCH and unix.EBADF say that the holder has let go of it.
//
// It needs Linux 5.6 (pidfd_getfd(2)) and what PTRACE_MODE_ATTACH_REALCREDS needs:
// the holder's uid and gid, or CAP_SYS_PTRACE; and a seccomp profile and a Yama
// setting that allow it.
func duplicate(h holder, flow *sockdiag.Flow) (int, error) {
	pidfd, err := unix.PidfdOpen(h.pid, 0)
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

// releaseWait is how long a close may take before nobody waits for it.
const releaseWait = 100 * time.Millisecond

// release closes a duplicate. That may take for as long as the process wants that
// it is of: a file that it has put in the place of the socket may be on a FUSE or
// NFS server, and if it has closed its own descriptor the kernel waits here until
// its data has left (SO_LINGER). An action does not.
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

// verify returns nil if fd is the flow's socket, by its cookie, and no listener.
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

// socketAddresses are the addresses of a socket as getsockname(2) and getpeername(2)
// return them; an address that was not read is invalid. BPF programs may rewrite them,
// so they are compared only with those of the same socket.
type socketAddresses struct{ local, peer netip.AddrPort }

func socketNames(fd int) socketAddresses {
	var names socketAddresses
	if sa, err := unix.Getsockname(fd); err == nil {
		names.local = addrPort(sa)
	}
	if sa, err := unix.Getpeername(fd); err == nil {
		names.peer = addrPort(sa)
	}
	return names
}

// differ reports whether both have a peer and an address is another one.
func (a socketAddresses) differ(b socketAddresses) bool {
	return a.peer.IsValid() && b.peer.IsValid() && a != b
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

// hangUp ends the connection behind fd in order: what is queued goes out, as long
// as the peer takes it, then a FIN, and the application reads end of file. It
// returns unix.ENOTCONN when the connection had ended already.
func hangUp(fd int, linger time.Duration) error {
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	return giveUpAfter(fd, linger)
}

// giveUpAfter makes the kernel end a flow that has been shut down when its peer
// does not acknowledge, or keeps its window shut, for as long as linger
// (TCP_USER_TIMEOUT, RFC 5482); the MPTCP socket has no such option. A shorter
// timeout of the application's own is kept; a linger of 0 leaves the kernel's
// defaults, which are minutes.
func giveUpAfter(fd int, linger time.Duration) error {
	if linger <= 0 {
		return nil
	}
	own, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	// The kernel has an int of milliseconds, and adds to it.
	if ms := int(min(max(linger.Milliseconds(), 1), math.MaxInt32/2)); err == nil && (own == 0 || own > ms) {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms)
	}
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}

// unreadMPTCP returns the bytes that wait to be read from an MPTCP connection, whose
// receive queue in a dump counts memory. Before Linux 5.17, without SIOCINQ for MPTCP, it
// returns that of the dump. For a TCP flow it returns 0.
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
