package actuator

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/netns"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// pod is a network namespace with an application that has one connection. The addresses are
// the same in each pod.
type pod struct {
	hangup.Namespace
	t   *testing.T
	app *testapp.App
	fd  int
}

var (
	podClient = netip.MustParseAddrPort("127.0.0.1:40001")
	podServer = netip.MustParseAddrPort("127.0.0.1:4001")
)

func startPod(t *testing.T, binary, name string, server testapp.ServerConfig) *pod {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	p := &pod{Namespace: hangup.Namespace{Name: name, Do: ns.Do}, t: t}
	err = ns.Do(func() error {
		server.Address = podServer.String()
		testapp.Serve(t, server)
		p.app = testapp.Start(t, binary)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(ns.Path(), &st); err != nil {
		t.Fatal(err)
	}
	p.Inode = st.Ino
	p.app.Call("ignore")
	p.connect()
	return p
}

func (p *pod) connect() {
	p.t.Helper()
	answer := p.app.Call("bound %s %d %d", podServer.Addr(), podServer.Port(), podClient.Port())
	if _, err := fmt.Sscanf(answer, "bound ok %d", &p.fd); err != nil {
		p.t.Fatal(answer)
	}
}

// mustBeOpen checks that the application can use its connection.
func (p *pod) mustBeOpen() {
	p.t.Helper()
	if got := p.app.Call("write %d", p.fd); got != "write ok 1" {
		p.t.Errorf("connection in %s: %s", p.Name, got)
	}
}

// A hang-up closes the connection in the namespace of the request, and not one with the same
// addresses in another namespace or in that of tcphup.
func TestPrivilegedNamespaceEqualAddresses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		testapp.Serve(t, testapp.ServerConfig{Address: podServer.String()})
		own := &pod{t: t, app: testapp.Start(t, binary), Namespace: hangup.Namespace{Name: "own"}}
		own.app.Call("ignore")
		own.connect()
		one, two := startPod(t, binary, "one", testapp.ServerConfig{}), startPod(t, binary, "two", testapp.ServerConfig{})
		for _, method := range []hangup.Method{hangup.Shutdown, hangup.Destroy} {
			request := hangup.Request{Selector: to(podServer), Method: method, Namespaces: []hangup.Namespace{two.Namespace}}
			dry := request
			dry.DryRun = true
			expect(t, only(t, mustHangUp(t, New(Config{}), dry)), hangup.Planned, "", method)
			two.mustBeOpen()
			r := only(t, mustHangUp(t, New(Config{}), request))
			expect(t, r, hangup.Closed, "", method)
			if r.Namespace != "two" || r.PID != two.app.PID() || r.Flow.Local != podClient {
				t.Errorf("got %+v", r)
			}
			want := map[hangup.Method]string{hangup.Shutdown: "recv ok 0", hangup.Destroy: "recv ECONNABORTED -1"}[method]
			if got := two.app.Call("recv %d", two.fd); got != want {
				t.Errorf("%s: application: %q", method, got)
			}
			own.mustBeOpen()
			one.mustBeOpen()
			two.app.Call("close %d", two.fd)
			two.connectAgain()
		}
	})
}

// connectAgain waits until the addresses are free.
func (p *pod) connectAgain() {
	p.t.Helper()
	nstest.Eventually(p.t, "the addresses are free", func() bool {
		_, err := fmt.Sscanf(p.app.Call("bound %s %d %d", podServer.Addr(), podServer.Port(), podClient.Port()), "bound ok %d", &p.fd)
		return err == nil
	})
}

// A limit counts the flows of all namespaces, and one hang-up covers all of them. A namespace
// that cannot be read is in the report, and stops no hang-up elsewhere.
func TestPrivilegedNamespacesTogether(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		one, two := startPod(t, binary, "one", testapp.ServerConfig{}), startPod(t, binary, "two", testapp.ServerConfig{})
		denied := fmt.Errorf("enter: %w", os.ErrPermission)
		// The garbage collector would close what the action leaves open.
		debug.SetGCPercent(-1)
		for method, want := range map[hangup.Method]string{hangup.Shutdown: "recv ok 0", hangup.Destroy: "recv ECONNABORTED -1"} {
			request := hangup.Request{
				Selector: to(podServer), MaxFlows: 1, Method: method,
				Namespaces: []hangup.Namespace{one.Namespace, {Name: "locked", Do: func(func() error) error { return denied }}, {}, two.Namespace},
			}
			report := mustHangUp(t, New(Config{}), request)
			if len(report.Results) != 2 || report.Refusals()[hangup.ReasonBudget] != 2 || report.Covered != 2 {
				t.Errorf("%s: got %+v", method, report)
			}
			one.mustBeOpen()
			two.mustBeOpen()

			request.MaxFlows = 2
			report = mustHangUp(t, New(Config{}), request)
			if report.Count(hangup.Closed) != 2 {
				t.Errorf("%s: got %+v", method, report.Results)
			}
			if len(report.NamespaceErrors) != 1 || report.NamespaceErrors[0].Name != "locked" || !errors.Is(report.NamespaceErrors[0].Err, os.ErrPermission) {
				t.Errorf("%s: errors %+v", method, report.NamespaceErrors)
			}
			if n := netlinkSockets(t); n != 0 {
				t.Errorf("%s: %d connections are open", method, n)
			}
			for _, p := range []*pod{one, two} {
				if got := p.app.Call("recv %d", p.fd); got != want {
					t.Errorf("%s: %q", p.Name, got)
				}
				p.app.Call("close %d", p.fd)
				p.connectAgain()
			}
			request.Namespaces = request.Namespaces[1:2]
			if report := mustHangUp(t, New(Config{}), request); len(report.Results) != 0 || len(report.NamespaceErrors) != 1 {
				t.Errorf("no readable namespace: %+v", report)
			}
		}
	})
}

// netlinkSockets counts the netlink sockets of this process.
func netlinkSockets(t *testing.T) (n int) {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range dir {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_NETLINK {
			n++
		}
	}
	return n
}

// The state after the hang-up is read in the namespace.
func TestPrivilegedNamespaceHalfClosed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		p := startPod(t, testapp.Build(t), "one", testapp.ServerConfig{KeepOpen: true})
		report := mustHangUp(t, New(Config{}), hangup.Request{
			Selector: to(podServer), Linger: 200 * time.Millisecond, Namespaces: []hangup.Namespace{p.Namespace},
		})
		expect(t, only(t, report), hangup.HalfClosed, "", hangup.Shutdown)
	})
}

// The search for owners begins with the processes of the namespaces.
func TestPrivilegedNamespaceRank(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		one, two := startPod(t, binary, "one", testapp.ServerConfig{}), startPod(t, binary, "two", testapp.ServerConfig{})
		proc, err := openProc()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(proc)
		for _, tt := range []struct {
			namespaces []uint64
			own, two   bool // in the namespaces
		}{{nil, true, false}, {[]uint64{two.Inode}, false, true}, {[]uint64{0, two.Inode}, true, true}} {
			ranked, _ := rank(proc, []int{os.Getpid(), one.app.PID(), two.app.PID()}, nil, nearLimit, tt.namespaces)
			for _, c := range ranked {
				want := map[int]bool{os.Getpid(): tt.own, one.app.PID(): false, two.app.PID(): tt.two}[c.pid]
				if c.elsewhere == want {
					t.Errorf("namespaces %v: %+v", tt.namespaces, c)
				}
			}
		}
	})
}

// A process that is not in the namespace but holds its socket is the owner, and a namespace
// may end during the hang-up.
func TestPrivilegedNamespaceOwners(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		ending, moved := startPod(t, binary, "ending", testapp.ServerConfig{}), startPod(t, binary, "moved", testapp.ServerConfig{})
		if got := moved.app.Call("netns /proc/%d/ns/net", os.Getpid()); got != "netns ok" {
			t.Fatal(got)
		}
		a := New(Config{})
		beforeTurn(a, func(*sockdiag.Flow) { ending.app.Kill() })
		report := mustHangUp(t, a, hangup.Request{
			Selector: to(podServer), Method: hangup.Shutdown, Namespaces: []hangup.Namespace{ending.Namespace, moved.Namespace},
		})
		if len(report.Results) != 2 || len(report.NamespaceErrors) != 0 {
			t.Fatalf("got %+v", report)
		}
		for i := range report.Results {
			switch r := &report.Results[i]; r.Namespace {
			case "moved":
				expect(t, r, hangup.Closed, "", hangup.Shutdown)
				if r.PID != moved.app.PID() {
					t.Errorf("owner is %d, want %d", r.PID, moved.app.PID())
				}
			case "ending":
				if r.Outcome != hangup.Gone {
					t.Errorf("got %+v", r)
				}
			}
		}
	})
}

// Reconnects are watched in the namespace.
func TestPrivilegedNamespaceReconnect(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		p := startPod(t, testapp.Build(t), "one", testapp.ServerConfig{})
		p.app.Send("recv %d", p.fd)
		go func() {
			if got := p.app.Receive(); got != "recv ok 0" {
				t.Error(got)
			}
			if got := p.app.Call("connect %s %d tcp", podServer.Addr(), podServer.Port()); !strings.HasPrefix(got, "connect ok") {
				t.Error(got)
			}
		}()
		report := mustHangUp(t, New(Config{}), hangup.Request{
			Selector: to(podServer), Linger: time.Second, WatchReconnect: nstest.HangGuard, Namespaces: []hangup.Namespace{p.Namespace},
		})
		if err := report.AwaitReconnects(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := only(t, report)
		if r.Reconnect == nil || r.Reconnect.Remote != podServer {
			t.Errorf("got %+v", r.Reconnect)
		}
	})
}

// The direction comes from the listeners and the ephemeral ports of the namespace.
func TestPrivilegedNamespaceDirection(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		p := startPod(t, testapp.Build(t), "one", testapp.ServerConfig{})
		testapp.Serve(t, testapp.ServerConfig{Address: podClient.String()}) // in our own namespace
		report := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(podServer), DryRun: true, Namespaces: []hangup.Namespace{p.Namespace}})
		expect(t, only(t, report), hangup.Planned, "", hangup.Shutdown)
	})
}

// The self-test uses connections in the namespace.
func TestPrivilegedNamespaceProbe(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		p := startPod(t, testapp.Build(t), "one", testapp.ServerConfig{})
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
		a := New(Config{})
		usable := func(in hangup.Namespace) map[string]bool {
			all := make(map[string]bool)
			for _, c := range a.Probe(t.Context(), in) {
				all[c.Name] = c.Usable
			}
			return all
		}
		if own, other := usable(hangup.Namespace{}), usable(p.Namespace); own["dump_ipv6"] || !other["dump_ipv6"] || !other["destroy"] || !other["shutdown"] {
			t.Errorf("own namespace %v, other %v", own, other)
		}
		if nstest.HasMPTCP() {
			if err := p.Enter(func() error { return os.WriteFile("/proc/sys/net/mptcp/enabled", []byte("0"), 0o644) }); err != nil {
				t.Fatal(err)
			}
			if own, other := usable(hangup.Namespace{}), usable(p.Namespace); !own["destroy_mptcp_path"] || other["destroy_mptcp_path"] {
				t.Errorf("MPTCP disabled: own namespace %v, other %v", own, other)
			}
		}
		p.mustBeOpen()
	})
}
