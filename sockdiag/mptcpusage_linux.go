package sockdiag

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// MPTCPUsage detects a namespace without MPTCP sockets. A dump of MPTCP connections, for which
// the kernel walks those of the whole host, can be left out there. The zero value is ready to
// use; the first call of InUse opens a file that stays open until Close, and determines the
// namespace.
type MPTCPUsage struct {
	file    *os.File
	buffer  [16 << 10]byte
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
	file := u.file
	u.file = nil
	if file == nil {
		return nil
	}
	return file.Close()
}

// count reads the file from its beginning: opening it costs more than the dump.
func (u *MPTCPUsage) count() (sockets int, listed bool, err error) {
	if u.file == nil {
		if u.file, err = os.Open(protocolsFile); err != nil {
			return 0, false, err
		}
	}
	n, err := io.ReadFull(io.NewSectionReader(u.file, 0, math.MaxInt64), u.buffer[:])
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, false, fmt.Errorf("read %s: %d bytes: %w", protocolsFile, n, cmp.Or(err, errors.New("file is too large")))
	}
	return parseProtocols(u.buffer[:n])
}

// parseProtocols returns the sockets of MPTCP and MPTCPv6, and whether the protocols are
// listed. Their lines begin with the name, the size and the number of sockets; the number is -1
// for a protocol without a counter.
func parseProtocols(b []byte) (sockets int, listed bool, err error) {
	for line := range bytes.Lines(b) {
		if !bytes.HasPrefix(line, []byte("MPTCP")) {
			continue
		}
		fields := bytes.Fields(line)
		if len(fields) < 3 || string(fields[0]) != "MPTCP" && string(fields[0]) != "MPTCPv6" {
			continue
		}
		n, err := strconv.Atoi(string(fields[2]))
		if err != nil {
			return 0, false, err
		}
		sockets += max(n, 0)
		listed = true
	}
	return sockets, listed, nil
}
