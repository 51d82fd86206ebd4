package sockdiag

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// MPTCPUsage detects a namespace without MPTCP sockets. A dump of MPTCP connections, for which
// the kernel walks those of the whole host, can be left out there. The zero value is ready to
// use; the first call of InUse opens a file that stays open until Close, and determines the
// namespace.
type MPTCPUsage struct {
	open   bool
	fd     int
	buffer [16 << 10]byte
	// prefix is the length of the file up to the end of the last line about MPTCP, and lines
	// the number of these lines, in the last complete read.
	prefix, lines int

	probed  bool
	counted bool // the kernel counts MPTCP sockets
}

// protocolsFile has the number of sockets by protocol in the namespace of the thread.
const protocolsFile = "/proc/thread-self/net/protocols"

// InUse reports whether the network namespace of the calling thread may have MPTCP connections
// or listeners. It also returns true if that is unknown: the file cannot be read, or the
// kernel does not count MPTCP sockets (before Linux 6.3). The first call without sockets opens a
// listener on loopback for a moment to find that out. A kernel without MPTCP does not list the
// protocol.
func (u *MPTCPUsage) InUse() bool {
	n, listed, err := u.count()
	switch {
	case err != nil:
		return true
	case n > 0:
		u.counted = true
		return true
	case !listed:
		return false
	case !u.probed && !u.counted:
		u.probed = true
		u.counted = u.probe()
	}
	return !u.counted
}

// probe reports whether the kernel counts a listener. A socket in another state is not counted
// by any kernel.
func (u *MPTCPUsage) probe() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocolMPTCP)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}) != nil || unix.Listen(fd, 0) != nil {
		return false
	}
	n, _, err := u.count()
	return err == nil && n > 0
}

// Close closes the file. The next call of InUse opens it in the network namespace of its
// thread.
func (u *MPTCPUsage) Close() error {
	if !u.open {
		return nil
	}
	u.open = false
	return unix.Close(u.fd)
}

// count returns the number of MPTCP sockets, and whether the protocols are listed. It reads the
// file from its beginning: opening it costs more than the dump. The lines about MPTCP are
// among the first ones. The kernel adds up each line for all processors, so count reads only
// as much as it needed before, and the whole file if lines have moved.
func (u *MPTCPUsage) count() (sockets int, listed bool, err error) {
	if !u.open {
		if u.fd, err = unix.Open(protocolsFile, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return 0, false, fmt.Errorf("open %s: %w", protocolsFile, err)
		}
		u.open = true
	}
	if u.lines > 0 {
		n, err := u.read(u.buffer[:u.prefix])
		if err != nil {
			return 0, false, err
		}
		sockets, lines, _, err := parseProtocols(u.buffer[:n])
		if lines == u.lines || err != nil {
			return sockets, true, err
		}
	}
	n, err := u.read(u.buffer[:])
	if err == nil && n == len(u.buffer) {
		err = errors.New("file is too large")
	}
	if err != nil {
		return 0, false, fmt.Errorf("read %s: %d bytes: %w", protocolsFile, n, err)
	}
	sockets, u.lines, u.prefix, err = parseProtocols(u.buffer[:n])
	return sockets, u.lines > 0, err
}

// read fills b from the beginning of the file, as far as it reaches.
func (u *MPTCPUsage) read(b []byte) (n int, err error) {
	for n < len(b) {
		more, err := unix.Pread(u.fd, b[n:], int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || more == 0:
			return n, err
		default:
			n += more
		}
	}
	return n, nil
}

// parseProtocols returns the sockets of MPTCP and MPTCPv6, the number of complete lines about
// them, and the end of the last one. The lines begin with the name, the size and the number of
// sockets; the number is -1 for a protocol without a counter.
func parseProtocols(b []byte) (sockets, lines, end int, err error) {
	at := 0
	for line := range bytes.Lines(b) {
		at += len(line)
		line, complete := bytes.CutSuffix(line, []byte("\n"))
		protocol, rest := nextField(line)
		_, rest = nextField(rest)
		count, _ := nextField(rest)
		if name := string(protocol); !complete || len(count) == 0 || name != "MPTCP" && name != "MPTCPv6" {
			continue
		}
		n, err := strconv.Atoi(string(count))
		if err != nil {
			return 0, 0, 0, fmt.Errorf("parse sockets of %s: %w", protocol, err)
		}
		sockets += max(n, 0)
		lines, end = lines+1, at
	}
	return sockets, lines, end, nil
}

// nextField returns the first field of a line, and what follows it. Unlike bytes.Fields it does
// not allocate: the agent of a node counts the sockets of each pod.
func nextField(line []byte) (field, rest []byte) {
	field, rest, _ = bytes.Cut(bytes.TrimLeft(line, " "), []byte(" "))
	return field, rest
}
