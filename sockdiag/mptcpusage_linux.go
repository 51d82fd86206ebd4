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
// use; the first call of InUse opens a file that stays open, and determines the namespace.
type MPTCPUsage struct {
	file    *os.File
	buffer  [16 << 10]byte
	counted bool // the kernel counts MPTCP sockets
}

// protocolsFile has the number of sockets by protocol in the namespace of the thread.
const protocolsFile = "/proc/thread-self/net/protocols"

// InUse reports whether the network namespace of the calling thread may have MPTCP sockets.
// It also returns true if that is unknown: the file cannot be read, or the kernel does not
// count MPTCP sockets. A socket that InUse opens shows the latter; it is opened once.
func (u *MPTCPUsage) InUse() bool {
	n, err := u.count()
	if err != nil || n > 0 || u.counted {
		return err != nil || n > 0
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocolMPTCP)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	n, err = u.count()
	u.counted = err == nil && n > 0
	return !u.counted
}

// count reads the file from its beginning: opening it costs more than the dump.
func (u *MPTCPUsage) count() (int, error) {
	if u.file == nil {
		var err error
		if u.file, err = os.Open(protocolsFile); err != nil {
			return 0, err
		}
	}
	n, err := io.ReadFull(io.NewSectionReader(u.file, 0, math.MaxInt64), u.buffer[:])
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, fmt.Errorf("read %s: %d bytes: %w", protocolsFile, n, cmp.Or(err, errors.New("file is too large")))
	}
	return parseProtocols(u.buffer[:n])
}

// parseProtocols returns the sockets of MPTCP and MPTCPv6. Its lines begin with the name, the
// size and the number of sockets; the number is -1 for a protocol without a counter.
func parseProtocols(b []byte) (sockets int, err error) {
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) < 3 || string(fields[0]) != "MPTCP" && string(fields[0]) != "MPTCPv6" {
			continue
		}
		n, err := strconv.Atoi(string(fields[2]))
		if err != nil {
			return 0, err
		}
		sockets += max(n, 0)
	}
	return sockets, nil
}
