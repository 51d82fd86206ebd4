package sockdiag

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// cat /proc/net/protocols; Linux 6.18, with one MPTCP connection over IPv6 and its listener.
const protocols = `protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh gp em
MPTCPv6   2064      3    4632   no       0   yes  kernel      y  y  y  n  y  y  y  y  y  y  y  y  n  n  y  y  y  n
UDP       1152      2       1   NI       0   yes  kernel      y  y  y  n  y  y  y  n  y  y  y  y  n  n  n  y  y  n
MPTCP     1936      1    4632   no       0   yes  kernel      y  y  y  n  y  y  y  y  y  y  y  y  n  n  y  y  y  n
TCP       2304      9    4632   no     192   yes  kernel      y  y  y  y  y  y  y  y  y  y  y  y  n  y  y  y  y  y
`

func TestParseProtocols(t *testing.T) {
	tests := []struct {
		text                string
		sockets, lines, end int
	}{
		{protocols, 4, 2, 460},
		{"", 0, 0, 0},
		{"MPTCP 1936 -1 -1\n", 0, 1, 17},
		{"MPTCP 1936\n", 0, 0, 0},
		{"MPTCP 1936 5", 0, 0, 0}, // the digits may go on
		{"MPTCPv7 1936 5 -1\n", 0, 0, 0},
		{"TCP 2304 9 4632\n", 0, 0, 0},
	}
	for _, tt := range tests {
		if sockets, lines, end, err := parseProtocols([]byte(tt.text)); sockets != tt.sockets || lines != tt.lines || end != tt.end || err != nil {
			t.Errorf("%q: %d, %d, %d, %v, want %+v", tt.text, sockets, lines, end, err, tt)
		}
	}
	if _, _, _, err := parseProtocols([]byte("MPTCP 1936 many\n")); err == nil {
		t.Error("no error for text in place of a number")
	}
}

// A count that reads less than the file has the same result, also if lines have moved.
func TestPrivilegedMPTCPUsagePrefix(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		pair(t, "127.0.0.1:0", "127.0.0.1", true)
		var u MPTCPUsage
		sockets, listed, err := u.count()
		if err != nil || !listed {
			t.Fatal(listed, err)
		}
		prefix, lines := u.prefix, u.lines
		for _, moved := range []int{0, -1, -prefix + 1, 100} {
			u.prefix = prefix + moved
			if got, listed, err := u.count(); got != sockets || !listed || err != nil {
				t.Errorf("moved by %d: %d, %t, %v, want %d", moved, got, listed, err, sockets)
			}
			if moved < 0 && (u.prefix != prefix || u.lines != lines) {
				t.Errorf("moved by %d: needs %d bytes, want %d", moved, u.prefix, prefix)
			}
		}
	})
}

// A dump of MPTCP connections is left out only if the namespace has none.
func TestPrivilegedMPTCPUsage(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		var u, other MPTCPUsage
		inUse := u.InUse()
		ln := listen(t, "127.0.0.1:0", true)
		n, _, err := other.count()
		if err != nil {
			t.Fatal(err)
		}
		if counts := n > 0; inUse == counts || u.counted != counts {
			t.Errorf("without sockets: in use %t, counted %t; the kernel counts %t", inUse, u.counted, counts)
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		for _, address := range []string{"127.0.0.1", "[::1]"} {
			ln := listen(t, address+":0", true)
			client, server := connect(t, ln, "", ln.Addr().String(), true)
			if !u.InUse() {
				t.Error("a listener is open, but MPTCP is not in use")
			}
			if err := ln.Close(); err != nil {
				t.Fatal(err)
			}
			if !u.InUse() {
				t.Error("a connection is open, but MPTCP is not in use")
			}
			if err := errors.Join(client.Close(), server.Close()); err != nil {
				t.Fatal(err)
			}
		}
		pair(t, "127.0.0.1:0", "127.0.0.1", false)
		if u.counted {
			nstest.Eventually(t, "connections have ended", func() bool { return !u.InUse() })
		}
	})
}

// After Close, InUse is about the namespace of the calling thread.
func TestPrivilegedMPTCPUsageClose(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		var u MPTCPUsage
		if u.InUse(); !u.counted {
			t.Skip("the kernel does not count MPTCP sockets")
		}
		other := nstest.NewNamespace(t, "other")
		other.Do(func() { pair(t, "127.0.0.1:0", "127.0.0.1", true) })
		inUse := func(want bool) {
			t.Helper()
			if got := u.InUse(); got != want {
				t.Errorf("in use %t, want %t", got, want)
			}
		}
		inUse(false)
		other.Do(func() { inUse(false) }) // the open file
		if err := u.Close(); err != nil {
			t.Fatal(err)
		}
		other.Do(func() { inUse(true) })
		if err := errors.Join(u.Close(), u.Close()); err != nil {
			t.Fatal(err)
		}
		inUse(false)
	})
}

// A kernel without MPTCP does not list it.
func TestPrivilegedMPTCPUsageNotListed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "protocols"), []byte("TCP       2304      9    4632   no     192   yes  kernel\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(dir, fmt.Sprintf("/proc/self/task/%d/net", unix.Gettid()), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		var u MPTCPUsage
		if u.InUse() || u.probed {
			t.Errorf("in use, or probed %t", u.probed)
		}
	})
}

// Where no MPTCP socket can be opened, it is unknown whether the kernel counts them.
func TestPrivilegedMPTCPUsageUnknown(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		nstest.Command(t, "sysctl", "-q", "net.mptcp.enabled=0")
		if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocolMPTCP); err == nil {
			_ = unix.Close(fd)
			t.Fatal("an MPTCP socket was opened")
		}
		if u := new(MPTCPUsage); !u.InUse() {
			t.Error("MPTCP is not in use, but the kernel may not count its sockets")
		}
	})
}
