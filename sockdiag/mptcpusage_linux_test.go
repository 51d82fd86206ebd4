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
	for text, want := range map[string]int{
		protocols:          4,
		"":                 0,
		"MPTCP 1936 -1 -1": 0,
		"MPTCP 1936":       0,
		"TCP 2304 9 4632":  0,
	} {
		if got, err := parseProtocols([]byte(text)); got != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	if _, err := parseProtocols([]byte("MPTCP 1936 many")); err == nil {
		t.Error("no error for text in place of a number")
	}
}

// A dump of MPTCP connections is left out only if the namespace has none.
func TestPrivilegedMPTCPUsage(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		var u MPTCPUsage
		if used := u.InUse(); used != !u.counted {
			t.Errorf("without sockets: in use %t, counted %t", used, u.counted)
		}
		for _, address := range []string{"127.0.0.1", "[::1]"} {
			client, server := pair(t, address+":0", address, true)
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
