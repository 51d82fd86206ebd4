package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// connection is a kind of connection from an application to a peer.
type connection struct {
	name          string
	host          string // the peer's address
	mapped, mptcp bool
	named         string // HOST argument; "" means host
}

// TestPrivilegedClassicUsage checks the arguments of the classic tool: HOST PORT only.
func TestPrivilegedClassicUsage(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		binary := testapp.Build(t)
		connections := []connection{
			{name: "ipv4", host: nstest.Peer4},
			{name: "ipv6", host: nstest.Peer6},
			{name: "mapped", host: nstest.Peer4, mapped: true},
			{name: "mptcp by its second subflow", host: nstest.Peer4, mptcp: true, named: nstest.Peer4Two},
			{name: "name", host: nstest.Peer4, named: "service.example"},
			{name: "prefix", host: nstest.Peer4, named: "10.99.0.0/24"},
		}
		nameHosts(t, "service.example", nstest.Peer4, nstest.Peer6)
		for _, c := range connections {
			t.Run(c.name, func(t *testing.T) {
				if c.mptcp {
					nstest.NeedMPTCP(t)
				}
				classicUsage(t, peer, binary, c)
			})
		}
	})
}

func classicUsage(t *testing.T, peer *nstest.Peer, binary string, c connection) {
	var server, otherPort *testapp.Server
	peer.Do(func() {
		server = testapp.Serve(t, testapp.ServerConfig{Address: ":0", MPTCP: c.mptcp})
		otherPort = testapp.Serve(t, testapp.ServerConfig{Address: ":0", MPTCP: c.mptcp})
	})
	// Another destination on the same port.
	port := server.Addr().Port()
	otherHost := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:" + strconv.Itoa(int(port))})

	app := testapp.Start(t, binary)
	app.Call("ignore")
	host := netip.MustParseAddr(c.host)
	fd := app.Connect(netip.AddrPortFrom(host, port), c.mapped, c.mptcp)
	bystanders := []int{
		app.Connect(netip.AddrPortFrom(host, otherPort.Addr().Port()), c.mapped, c.mptcp),
		app.Connect(otherHost.Addr(), false, false),
	}
	if c.mptcp {
		app.Call("write %d", fd)
		awaitSubflows(t, port, 2)
	}
	before := resets(t, peer)

	named := c.named
	if named == "" {
		named = c.host
	}
	r := tcphup(t, named, strconv.Itoa(int(port)))
	r.mustExit(t, 0)
	if !strings.Contains(r.stdout, "closed") || !strings.Contains(r.stderr, "1 closed") {
		t.Errorf("stdout: %s\nstderr: %s", r.stdout, r.stderr)
	}
	if got := app.Call("recv %d", fd); got != "recv ok 0" {
		t.Errorf("application: %q, want EOF", got)
	}
	if got := <-server.Ends; got != "eof" {
		t.Errorf("peer: %q, want EOF", got)
	}
	if after := resets(t, peer); after != before {
		t.Errorf("RSTs on the wire: %s before, %s after", before, after)
	}
	for _, fd := range bystanders {
		if got := app.Call("write %d", fd); got != "write ok 1" {
			t.Errorf("bystander on descriptor %d: %q", fd, got)
		}
	}
	for _, s := range []*testapp.Server{otherPort, otherHost} {
		if len(s.Ends) != 0 {
			t.Errorf("bystander's peer: %q", <-s.Ends)
		}
	}
	if !otherHost.Listens() {
		t.Error("listener on the same port closed")
	}
	// A second run matches no flow, which is not an error.
	r = tcphup(t, named, strconv.Itoa(int(port)))
	r.mustExit(t, 0)
	if !strings.Contains(r.stderr, "no connection matches") {
		t.Errorf("stderr: %s", r.stderr)
	}
}

// resets returns the RST counters of both hosts.
func resets(t *testing.T, peer *nstest.Peer) string {
	t.Helper()
	count := func() (n string) {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(b)) {
			if fields := strings.Fields(line); fields[0] == "Tcp:" && fields[14] != "OutRsts" {
				n = fields[14]
			}
		}
		return n
	}
	own := count()
	peer.Do(func() { own += "+" + count() })
	return own
}

func awaitSubflows(t *testing.T, port uint16, n int) {
	t.Helper()
	nstest.Eventually(t, fmt.Sprintf("%d subflows", n), func() bool {
		out := nstest.Command(t, "ss", "-Htn", "state", "established", fmt.Sprintf("dport = :%d and not dst 127.0.0.1", port))
		return strings.Count(out, "\n") == n
	})
}

// nameHosts maps a name to the addresses in the hosts file of the test's mount namespace.
func nameHosts(t *testing.T, name string, addrs ...string) {
	t.Helper()
	var hosts strings.Builder
	for _, a := range addrs {
		fmt.Fprintf(&hosts, "%s %s\n", a, name)
	}
	bind(t, "/etc/hosts", hosts.String())
}

// TestPrivilegedManyAddresses checks several HOST arguments, as printed by `getent hosts`,
// with port 0 for every port.
func TestPrivilegedManyAddresses(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		var fds []int
		hosts := []string{"127.0.0.1", "127.0.0.2", "::1"}
		for _, host := range append(hosts, "127.0.0.3") {
			server := testapp.Serve(t, testapp.ServerConfig{Address: netip.AddrPortFrom(netip.MustParseAddr(host), 0).String()})
			fds = append(fds, app.Connect(server.Addr(), false, false))
		}
		tcphup(t, append([]string{"--dry-run"}, append(hosts, "0")...)...).mustExit(t, 0)
		for _, fd := range fds {
			if got := app.Call("write %d", fd); got != "write ok 1" {
				t.Errorf("after a dry run: %q", got)
			}
		}
		r := tcphup(t, append([]string{"--output=json"}, append(hosts, "0")...)...)
		r.mustExit(t, 0)
		var report struct {
			Flows []struct {
				Remote, Outcome, Method, Command, Cookie string
			}
			Outcomes map[string]int
		}
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
			t.Fatalf("%v in %s", err, r.stdout)
		}
		if report.Outcomes["closed"] != len(hosts) || len(report.Flows) != len(hosts) {
			t.Errorf("report: %s", r.stdout)
		}
		for i, fd := range fds {
			want := "recv ok 0"
			if i == len(hosts) {
				want = "write ok 1"
			}
			if got := app.Call("%s %d", strings.Fields(want)[0], fd); got != want {
				t.Errorf("descriptor %d: %q, want %q", fd, got, want)
			}
		}
	})
}

// TestPrivilegedUsageErrors checks that invalid arguments exit with 2 and close no flow.
func TestPrivilegedUsageErrors(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		app := testapp.Start(t, testapp.Build(t))
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, false)
		for _, tt := range []struct {
			args []string
			says string
		}{
			{args: []string{"127.0.0.1"}, says: "PORT"},
			{args: nil, says: "HOST"},
			{args: []string{"127.0.0.1", "65536"}, says: "65535"},
			{args: []string{"127.0.0.1", "-1"}, says: "-1"},
			{args: []string{"127.0.0.1", "nosuchservice"}, says: "known service name"},
			{args: []string{"no-such-host.invalid", "0"}, says: "does not resolve"},
			{args: []string{"127.0.0.1", "no-such-host.invalid", "0"}, says: "does not resolve"},
			{args: []string{"0.0.0.0/0", "0"}, says: "--yes"},
			{args: []string{"::/0", "0"}, says: "--yes"},
			{args: []string{"127.0.0.1/8", "0"}, says: "127.0.0.0/8"},
			{args: []string{"127.0.0.1:80", "0"}, says: "has port 80"},
			{args: []string{"0.0.0.0", "0"}, says: "unspecified"},
			{args: []string{"--method=rst", "127.0.0.1", "0"}, says: "--method"},
			{args: []string{"--mptcp=path", "--method=shutdown", "127.0.0.1", "0"}, says: "--mptcp=path"},
			{args: []string{"--linger=0s", "127.0.0.1", "0"}, says: "--linger"},
		} {
			r := tcphup(t, tt.args...)
			if r.exit != 2 || !strings.Contains(r.stderr, tt.says) || r.stdout != "" {
				t.Errorf("tcphup %v: exit %d, stdout %q, stderr %q; want exit 2 and %q", tt.args, r.exit, r.stdout, r.stderr, tt.says)
			}
		}
		if got := app.Call("write %d", fd); got != "write ok 1" {
			t.Errorf("after usage errors: %q", got)
		}
		r := tcphup(t, "--max-flows=1", "--yes", "0.0.0.0/0", "0")
		r.mustExit(t, 0) // one flow is within the budget
		app.Connect(server.Addr(), false, false)
		app.Connect(server.Addr(), false, false)
		r = tcphup(t, "--max-flows=1", "127.0.0.1", "0")
		r.mustExit(t, 1)
		if strings.Count(r.stdout, "  refused (budget)\n") != 2 || !strings.Contains(r.stderr, "2 refused") ||
			!strings.Contains(r.stdout, "2 connections match, limit is 1 (--max-flows;") {
			t.Errorf("over budget: %s%s", r.stdout, r.stderr)
		}
	})
}

// TestPrivilegedNoRights checks that another user's flow is refused with the name of the
// missing capability.
func TestPrivilegedNoRights(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		app := testapp.Start(t, testapp.Build(t))
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, false)
		nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
		for _, method := range []string{"auto", "shutdown", "destroy"} {
			r := runProgram(t, nobody, program.Path(t), "--output=json", "--method="+method, "127.0.0.1", "0")
			r.mustExit(t, 1)
			var report struct {
				Flows []struct{ Outcome, Reason, Detail string }
			}
			if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
				t.Fatalf("%v in %s", err, r.stdout)
			}
			if len(report.Flows) != 1 || report.Flows[0].Outcome != "refused" || report.Flows[0].Reason != "permission" || !strings.Contains(report.Flows[0].Detail, "CAP_") {
				t.Errorf("%s: %s", method, r.stdout)
			}
			if got := app.Call("write %d", fd); got != "write ok 1" {
				t.Errorf("%s: %q", method, got)
			}
		}
	})
}
