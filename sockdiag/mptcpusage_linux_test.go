package sockdiag

import (
	"errors"
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
		text    string
		sockets int
		listed  bool
	}{
		{protocols, 4, true},
		{"", 0, false},
		{"MPTCP 1936 -1 -1", 0, true},
		{"MPTCP 1936", 0, false},
		{"MPTCPv7 1936 5 -1", 0, false},
		{"TCP 2304 9 4632", 0, false},
	}
	for _, tt := range tests {
		if sockets, listed, err := parseProtocols([]byte(tt.text)); sockets != tt.sockets || listed != tt.listed || err != nil {
			t.Errorf("%q: %d, %t, %v, want %d, %t", tt.text, sockets, listed, err, tt.sockets, tt.listed)
		}
	}
	if _, _, err := parseProtocols([]byte("MPTCP 1936 many")); err == nil {
		t.Error("no error for text in place of a number")
	}
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
