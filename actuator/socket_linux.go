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

// duplicate duplicates the holder's descriptor and verifies that it is the flow. The
// caller must release it. Errors match errIdentity, errListener or the errno; unix.ESRCH
// and unix.EBADF mean that the process exited or closed the descriptor.
//
// It needs Linux 5.6 (pidfd_getfd(2)) and PTRACE_MODE_ATTACH_REALCREDS access: the
// holder's uid and gid, or CAP_SYS_PTRACE. The seccomp profile and the Yama setting must
// allow it.
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

// verify returns nil if fd is the socket of the flow: same cookie, local address and
// peer, and not a listener. A socket keeps its cookie when it is connected again.
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
	local, err := unix.Getsockname(fd)
	switch {
	case err != nil:
		return fmt.Errorf("read local address: %w", err)
	case addrPort(local) != flow.Local:
		return errIdentity
	}
	peer, err := unix.Getpeername(fd)
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return verifyConnecting(fd, flow)
	case err != nil:
		return fmt.Errorf("read peer: %w", err)
	case addrPort(peer) != flow.Remote:
		return errIdentity
	}
	return nil
}

// verifyConnecting verifies a socket without a peer: it is connecting or has ended. A
// connected flow whose socket is connecting again has another peer.
func verifyConnecting(fd int, flow *sockdiag.Flow) error {
	if flow.Protocol == sockdiag.MPTCP || flow.State == sockdiag.SynSent {
		return nil
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	switch {
	case err != nil:
		return fmt.Errorf("read TCP_INFO: %w", err)
	case sockdiag.State(info.State) == sockdiag.SynSent:
		return errIdentity
	default:
		return nil
	}
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

// refresh reads queues and times of a TCP flow from its socket, faster than by a lookup.
// For an MPTCP connection it reads only the receive queue (Linux 5.17).
func refresh(fd int, flow *sockdiag.Flow) error {
	unread, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if errors.Is(err, unix.ENOTTY) && flow.Protocol == sockdiag.MPTCP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read SIOCINQ: %w", err)
	}
	flow.ReceiveQueue = uint32(unread)
	if flow.Protocol == sockdiag.MPTCP {
		return nil
	}
	unsent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return fmt.Errorf("read SIOCOUTQ: %w", err)
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return fmt.Errorf("read TCP_INFO: %w", err)
	}
	flow.SendQueue = uint32(unsent)
	flow.TCPInfo.Unacked = info.Unacked
	flow.TCPInfo.LastDataSent = time.Duration(info.Last_data_sent) * time.Millisecond
	flow.TCPInfo.LastDataReceived = time.Duration(info.Last_data_recv) * time.Millisecond
	flow.TCPInfo.LastAckReceived = time.Duration(info.Last_ack_recv) * time.Millisecond
	return nil
}
