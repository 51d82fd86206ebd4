package actuator

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

func to(addr netip.AddrPort) sockdiag.Selector {
	return sockdiag.Selector{
		Destinations: []netip.Prefix{netip.PrefixFrom(addr.Addr(), addr.Addr().BitLen())},
		Ports:        sockdiag.Ports(addr.Port()),
	}
}

// beforeTurn calls f before each lookup that precedes a hang-up.
func beforeTurn(a *Actuator, f func(*sockdiag.Flow)) {
	lookup := a.lookup
	a.lookup = func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error) {
		f(flow)
		return lookup(ctx, conn, flow)
	}
}

// mustHangUp also checks that Done received each result of the report once.
func mustHangUp(t *testing.T, a *Actuator, r hangup.Request) *hangup.Report {
	t.Helper()
	var done []hangup.Result
	next := r.Done
	r.Done = func(f *hangup.Result) {
		done = append(done, *f)
		if next != nil {
			next(f)
		}
	}
	report, err := a.HangUp(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for i := range report.Results {
		want := report.Results[i]
		want.Reconnect = nil
		same := func(f hangup.Result) bool { return reflect.DeepEqual(f, want) }
		if j := slices.IndexFunc(done, same); j < 0 {
			t.Errorf("Done did not receive %+v", want)
		} else {
			done = slices.Delete(done, j, j+1)
		}
	}
	if len(done) > 0 {
		t.Errorf("Done received more than the report: %+v", done)
	}
	return report
}

// noLeaks checks at the end of a test that it leaked no descriptor and no goroutine. It
// must be the first call of the test, so that its cleanup runs last.
func noLeaks(t *testing.T) {
	t.Helper()
	fds, goroutines := len(descriptors(t)), runtime.NumGoroutine()
	t.Cleanup(func() {
		goal := fmt.Sprintf("descriptors fall to %d and goroutines to %d", fds, goroutines)
		defer func() {
			if t.Failed() {
				stacks := make([]byte, 1<<16)
				t.Logf("open: %v\n%s", descriptors(t), stacks[:runtime.Stack(stacks, true)])
			}
		}()
		nstest.Eventually(t, goal, func() bool {
			runtime.GC() // closes the splice pipes of io.Copy
			return len(descriptors(t)) <= fds && runtime.NumGoroutine() <= goroutines
		})
	})
}

func descriptors(t *testing.T) (open []string) {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range dir {
		// The runtime opens its epoll and event descriptors on first use.
		link, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err == nil && !strings.HasPrefix(link, "anon_inode:[event") {
			open = append(open, link)
		}
	}
	return open
}

func only(t *testing.T, report *hangup.Report) *hangup.Result {
	t.Helper()
	if len(report.Results) != 1 {
		t.Fatalf("got %d results, want 1: %+v", len(report.Results), report.Results)
	}
	return &report.Results[0]
}

func expect(t *testing.T, r *hangup.Result, outcome hangup.Outcome, reason hangup.Reason, method hangup.Method) {
	t.Helper()
	if r.Outcome != outcome || r.Reason != reason || r.Method != method {
		t.Errorf("got outcome %s, reason %q, method %s (%s; %v), want %s, %q, %s",
			r.Outcome, r.Reason, r.Method, r.Detail, r.Err, outcome, reason, method)
	}
}

func flowTo(t *testing.T, remote netip.AddrPort) sockdiag.Flow {
	t.Helper()
	for _, f := range sockets(t, remote.Port()) {
		if f.Remote == remote {
			return f
		}
	}
	t.Fatalf("no flow to %v", remote)
	return sockdiag.Flow{}
}

// openSockets counts the open TCP sockets of this namespace.
func openSockets(t *testing.T) (n int) {
	t.Helper()
	conn, err := sockdiag.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, err := range conn.Flows(t.Context(), sockdiag.Query{States: sockdiag.Open}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// resets returns the number of RST segments that this namespace has sent (OutRsts).
func resets(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "OutRsts" {
				return fields[i]
			}
		}
	}
	t.Fatal("/proc/net/snmp has no OutRsts")
	return ""
}

// Each method has its documented effect on application and peer, for each kind of
// connection.
func TestPrivilegedMethods(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		nstest.NewPeer(t)
		binary := testapp.Build(t)
		tests := []struct {
			name          string
			listen        string
			mapped, mptcp bool
			method        hangup.Method
			outcome       hangup.Outcome
			reason        hangup.Reason
			app, peer     string
		}{
			{name: "ipv4 shutdown", listen: "127.0.0.1:0", method: hangup.Shutdown, outcome: hangup.Closed, app: "recv ok 0", peer: "eof"},
			{name: "ipv6 shutdown", listen: "[::1]:0", method: hangup.Shutdown, outcome: hangup.Closed, app: "recv ok 0", peer: "eof"},
			{name: "mapped shutdown", listen: "127.0.0.1:0", mapped: true, method: hangup.Shutdown, outcome: hangup.Closed, app: "recv ok 0", peer: "eof"},
			{name: "mptcp shutdown", listen: "127.0.0.1:0", mptcp: true, method: hangup.Shutdown, outcome: hangup.Closed, app: "recv ok 0", peer: "eof"},
			{name: "ipv4 destroy", listen: "127.0.0.1:0", method: hangup.Destroy, outcome: hangup.Closed, app: "recv ECONNABORTED -1", peer: "reset"},
			{name: "ipv6 destroy", listen: "[::1]:0", method: hangup.Destroy, outcome: hangup.Closed, app: "recv ECONNABORTED -1", peer: "reset"},
			{name: "mapped destroy", listen: "127.0.0.1:0", mapped: true, method: hangup.Destroy, outcome: hangup.Closed, app: "recv ECONNABORTED -1", peer: "reset"},
			{name: "mptcp destroy", listen: "127.0.0.1:0", mptcp: true, method: hangup.Destroy, outcome: hangup.Refused, reason: hangup.ReasonLastSubflow},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if tt.mptcp {
					nstest.NeedMPTCP(t)
				}
				server := testapp.Serve(t, testapp.ServerConfig{Address: tt.listen, MPTCP: tt.mptcp})
				bystander := testapp.Serve(t, testapp.ServerConfig{Address: tt.listen, MPTCP: tt.mptcp})
				app, other := testapp.Start(t, binary), testapp.Start(t, binary)
				app.Call("ignore")
				fd := app.Connect(server.Addr(), tt.mapped, tt.mptcp)
				otherFD := other.Connect(bystander.Addr(), tt.mapped, tt.mptcp)
				app.Block("recv", fd, unix.SYS_RECVFROM)
				nstest.Eventually(t, "the connections of the previous case are gone", func() bool {
					return openSockets(t) == 4 // both ends of two connections
				})
				before := resets(t)

				report := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Method: tt.method})
				r := only(t, report)
				method := tt.method
				if tt.outcome == hangup.Refused {
					method = hangup.None
				}
				expect(t, r, tt.outcome, tt.reason, method)
				if r.PID != app.PID() || r.Command != "app" {
					t.Errorf("owner is %d %q, want %d", r.PID, r.Command, app.PID())
				}
				if report.LeftAlone != 1 {
					t.Errorf("%d flows of the other direction, want 1", report.LeftAlone)
				}
				if tt.outcome != hangup.Refused {
					if got := app.Receive(); got != tt.app {
						t.Errorf("application: %q, want %q", got, tt.app)
					}
					if got := <-server.Ends; got != tt.peer {
						t.Errorf("peer reads %q, want %q", got, tt.peer)
					}
				}
				if sent := resets(t); tt.method == hangup.Shutdown && sent != before {
					t.Errorf("RSTs sent: %s, before the hang-up %s", sent, before)
				}
				if got := other.Call("write %d", otherFD); got != "write ok 1" {
					t.Errorf("bystander: %q", got)
				}
				if !server.Listens() {
					t.Error("the listener on the same address and port is gone")
				}
			})
		}
	})
}

// A hang-up wakes the application from each blocking call.
func TestPrivilegedBlockedCalls(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		tests := []struct {
			command string
			call    uintptr
			deaf    bool
			want    string
		}{
			{command: "recv", call: unix.SYS_RECVFROM, want: "recv ok 0"},
			{command: "send", call: unix.SYS_SENDTO, deaf: true, want: "send EPIPE"},
			{command: "poll", call: unix.SYS_PPOLL, want: "poll ok in hup rdhup"},
			{command: "epoll", call: unix.SYS_EPOLL_PWAIT, want: "epoll ok in hup rdhup"},
			{command: "uring", call: unix.SYS_IO_URING_ENTER, want: "uring ok 0"},
		}
		for _, tt := range tests {
			t.Run(tt.command, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", NoRead: tt.deaf})
				app := testapp.Start(t, binary)
				app.Call("ignore")
				fd := app.Connect(server.Addr(), false, false)
				app.Block(tt.command, fd, tt.call)
				r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Linger: 300 * time.Millisecond}))
				if r.Method != hangup.Shutdown {
					t.Errorf("method is %s (%s)", r.Method, r.Detail)
				}
				if got := app.Receive(); got != tt.want {
					t.Errorf("application: %q, want %q", got, tt.want)
				}
			})
		}
	})
}

// A flow is not shut down if SIGPIPE has its default disposition in a holder: the signal
// would kill the process at its next write.
func TestPrivilegedSIGPIPE(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})

		app := testapp.Start(t, binary)
		fd := app.Connect(server.Addr(), false, false)
		r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr())}))
		expect(t, r, hangup.Closed, "", hangup.Destroy)
		if !strings.Contains(r.Detail, "SIGPIPE") {
			t.Errorf("detail is %q", r.Detail)
		}
		if got := app.Call("write %d", fd); got != "write ECONNABORTED -1" {
			t.Errorf("application: %q", got)
		}

		// Every holder counts, not only the first.
		parent := testapp.Start(t, binary)
		parent.Connect(server.Addr(), false, false)
		parent.Call("fork")
		parent.Call("ignore")
		expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Method: hangup.Shutdown})), hangup.Refused, hangup.ReasonSIGPIPE, hangup.None)

		// Without destroy as well, the flow is refused.
		server = testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		testapp.Start(t, binary).Connect(server.Addr(), false, false)
		a := New(Config{})
		a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error {
			return fmt.Errorf("destroy socket: %w", unix.EOPNOTSUPP)
		}
		r = only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr())}))
		expect(t, r, hangup.Refused, hangup.ReasonSIGPIPE, hangup.None)
		if !strings.Contains(r.Detail, "CONFIG_INET_DIAG_DESTROY") {
			t.Errorf("detail is %q", r.Detail)
		}
	})
}

// The next action skips a flow that was hung up and waits for the FIN of its peer.
func TestPrivilegedRepeatedHangUp(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		nstest.TCPAndMPTCP(t, func(t *testing.T, mptcp bool) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: mptcp, KeepOpen: true})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			fd := app.Connect(server.Addr(), false, mptcp)
			r := hangup.Request{Selector: to(server.Addr()), Linger: 100 * time.Millisecond}
			expect(t, only(t, mustHangUp(t, New(Config{}), r)), hangup.HalfClosed, "", hangup.Shutdown)
			if again := mustHangUp(t, New(Config{}), r); len(again.Results) != 0 {
				t.Errorf("mptcp %v: the second action found %+v", mptcp, again.Results)
			}
			// A half-close of the application is not a hang-up.
			half := app.Connect(server.Addr(), false, mptcp)
			app.Call("half %d", half)
			nstest.Eventually(t, "the peer has read the end", func() bool { return len(server.Ends) == 2 })
			expect(t, only(t, mustHangUp(t, New(Config{}), r)), hangup.HalfClosed, "", hangup.Shutdown)
			for _, fd := range []int{fd, half} {
				if got := app.Call("recv %d", fd); got != "recv ok 0" {
					t.Errorf("mptcp %v: application: %q", mptcp, got)
				}
			}
		})
	})
}
