package sockdiag

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

var update = flag.Bool("update", false, "rewrite the captures in testdata")

// capture is the recorded reply to one dump request, and the reproducible facts of its
// flows.
type capture struct {
	file     string
	protocol Protocol
	family   Family
	flows    []string
}

var captures = []capture{
	{file: "tcp-ipv4.bin", family: IPv4, flows: []string{
		"close_wait 127.0.0.1:7001 127.0.0.1:7102 info, opened by peer, 1 to read", // the FIN
		"established 127.0.0.1:7001 127.0.0.1:7101 info, opened by peer",
		"established 127.0.0.1:7003 127.0.0.1:7106 info, opened by peer, initial subflow",
		"established 127.0.0.1:7101 127.0.0.1:7001 info, opened here, 5 to read",
		"established 127.0.0.1:7105 127.0.0.1:7002 info, opened here",
		"established 127.0.0.1:7106 127.0.0.1:7003 info, opened here, initial subflow",
		"fin_wait2 127.0.0.1:7102 127.0.0.1:7001 info, shut down",
		"listen 127.0.0.1:7001 0.0.0.0:0",
		"listen 127.0.0.1:7003 0.0.0.0:0",
		"syn_sent 192.0.2.1:7104 192.0.2.2:7001 info",
		"time_wait 127.0.0.1:7103 127.0.0.1:7001",
	}},
	{file: "tcp-ipv6.bin", family: IPv6, flows: []string{
		"established 127.0.0.1:7002 127.0.0.1:7105 info, mapped, opened by peer",
		"established [::1]:7002 [::1]:7101 info, opened by peer",
		"established [::1]:7101 [::1]:7002 info, opened here",
		"listen [::]:7002 [::]:0",
	}},
	{file: "mptcp-ipv4.bin", family: IPv4, protocol: MPTCP, flows: []string{
		"established 127.0.0.1:7003 127.0.0.1:7106 info",
		"established 127.0.0.1:7106 127.0.0.1:7003 info",
		"listen 127.0.0.1:7003 0.0.0.0:0 info",
	}},
}

func (c *capture) path() string { return filepath.Join("testdata", c.file) }

func (c *capture) read(t testing.TB) []byte {
	t.Helper()
	littleEndian(t)
	b, err := os.ReadFile(c.path())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// littleEndian skips a test on a big-endian machine.
func littleEndian(t testing.TB) {
	t.Helper()
	if cpu.IsBigEndian {
		t.Skip("captures in testdata are little-endian, this machine is big-endian")
	}
}

// payloads returns the SOCK_DIAG_BY_FAMILY payloads of the capture.
func (c *capture) payloads(t testing.TB) [][]byte {
	t.Helper()
	datagrams := c.read(t)
	h := view[unix.NlMsghdr](datagrams)
	payloads, err := referenceReply(datagrams, h.Seq, h.Pid)
	if !errors.Is(err, errDone) {
		t.Fatalf("%s ends with %v", c.file, err)
	}
	return payloads
}

// summary returns the reproducible facts of a flow.
func summary(f *Flow) string {
	var facts []string
	add := func(is bool, fact string) {
		if is {
			facts = append(facts, fact)
		}
	}
	add(f.HasInfo || f.HasMPTCPInfo, "info")
	add(f.Mapped(), "mapped")
	add(f.Opener == OpenedHere, "opened here")
	add(f.Opener == OpenedByPeer, "opened by peer")
	add(f.ReceiveQueue > 0 && f.State != Listen, fmt.Sprintf("%d to read", f.ReceiveQueue))
	add(f.ShutDown, "shut down")
	add(f.IsSubflow && !f.Subflow.Join(), "initial subflow")
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", f.State, f.Local, f.Remote, strings.Join(facts, ", ")))
}

func TestCaptures(t *testing.T) {
	for _, c := range captures {
		t.Run(c.file, func(t *testing.T) {
			var got []string
			for _, payload := range c.payloads(t) {
				f, err := parseFlow(payload, c.protocol)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, summary(&f))
			}
			slices.Sort(got)
			if diff := cmp.Diff(c.flows, got); diff != "" {
				t.Errorf("flows (-want +got):\n%s", diff)
			}
		})
	}
}

// The running kernel returns the flows of the captures for the same sockets. The flag
// -update rewrites the captures.
func TestPrivilegedCaptures(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		openCaptureSockets(t)
		for _, c := range captures {
			t.Run(c.file, func(t *testing.T) {
				want := slices.Clone(c.flows)
				if c.protocol == MPTCP || *update {
					nstest.NeedMPTCP(t)
				} else if !nstest.HasMPTCP() {
					for i := range want {
						want[i] = strings.TrimSuffix(want[i], ", initial subflow")
					}
				}
				conn := mustDial(t)
				kernel := conn.receive
				var datagrams []byte
				conn.receive = func(b []byte) (int, error) {
					n, err := kernel(b)
					datagrams = append(datagrams, b[:min(n, len(b))]...)
					return n, err
				}
				var got []string
				t.Cleanup(func() {
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s (-want +got):\n%s", c.file, diff)
					}
				})
				nstest.Eventually(t, "sockets match "+c.file, func() bool {
					datagrams, got = nil, nil
					for _, f := range collect(t, conn, Query{Protocol: c.protocol, Families: []Family{c.family}, States: ^StateSet(0), Info: true}) {
						got = append(got, summary(&f))
					}
					slices.Sort(got)
					return slices.Equal(got, want)
				})
				if *update {
					littleEndian(t)
					if err := os.WriteFile(c.path(), datagrams, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	})
}

// openCaptureSockets opens the sockets of the captures on fixed ports.
func openCaptureSockets(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	four, both := listen(t, "127.0.0.1:7001", false), listen(t, "[::]:7002", false)
	multipath := listen(t, "127.0.0.1:7003", true)

	_, server := connect(t, four, "127.0.0.1:7101", "127.0.0.1:7001", false)
	_, err := server.Write([]byte("hello"))
	must(err)
	client, _ := connect(t, four, "127.0.0.1:7102", "127.0.0.1:7001", false)
	must(client.CloseRead())
	must(client.CloseWrite())
	client, server = connect(t, four, "127.0.0.1:7103", "127.0.0.1:7001", false)
	must(client.Close())
	must(server.Close())

	connect(t, both, "[::1]:7101", "[::1]:7002", false)
	connect(t, both, "127.0.0.1:7105", "127.0.0.1:7002", false)
	connect(t, multipath, "127.0.0.1:7106", "127.0.0.1:7003", true)

	// The neighbour of this device does not exist, so the SYN is lost.
	nstest.Command(t, "ip", "link", "add", "nowhere", "type", "veth", "peer", "name", "end")
	nstest.Command(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "nowhere")
	nstest.Command(t, "ip", "link", "set", "nowhere", "up")
	nstest.Command(t, "ip", "link", "set", "end", "up")
	nstest.Command(t, "ip", "neigh", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:01", "dev", "nowhere")
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	must(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: 7104}))
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 2}, Port: 7001}); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("connect to unreachable host: %v", err)
	}
}
