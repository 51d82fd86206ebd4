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

// duplicate returns a descriptor of our own for the socket that the holder has,
// once it is certain that it is the flow: the same cookie, no listener, and the
// same peer, for a socket may be disconnected and connected anew. The caller
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

// verify returns nil when fd is a socket of the flow.
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
		return fmt.Errorf("read own address: %w", err)
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

// verifyConnecting is for a socket that names no peer: it is still connecting, or has
// ended meanwhile. One that was connected when it was chosen and is connecting now does
// so to somebody else.
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

// refresh reads queues and times of a TCP flow from its socket, which is as much
// faster than asking for the flow again as a drain needs. An MPTCP connection
// keeps what it has but for the bytes that wait to be read.
func refresh(fd int, flow *sockdiag.Flow) error {
	unread, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if errors.Is(err, unix.ENOTTY) && flow.Protocol == sockdiag.MPTCP {
		return nil // before Linux 5.17
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
