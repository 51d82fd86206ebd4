package actuator

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Flows in states other than established and idle.
func TestPrivilegedStates(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		peer := nstest.NewPeer(t)
		const linger = 500 * time.Millisecond

		t.Run("close_wait", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", NoRead: true})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			app.Connect(server.Addr(), false, false)
			nstest.Eventually(t, "the peer has accepted", func() bool { return server.Accepted() == 1 })
			server.CloseAll()
			nstest.Eventually(t, "the flow is half closed", func() bool {
				flows := sockets(t, server.Addr().Port())
				return len(flows) == 1 && flows[0].State == sockdiag.CloseWait
			})
			expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr())})), hangup.Closed, "", hangup.Shutdown)
		})

		t.Run("busy with a full queue", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", NoRead: true})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			fd := app.Connect(server.Addr(), false, false)
			app.Block("send", fd, unix.SYS_SENDTO)
			r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Linger: 4 * linger}))
			expect(t, r, hangup.Closed, "", hangup.Shutdown)
			// By destroy or, on a busy machine, by TCP_USER_TIMEOUT; not earlier.
			if r.Took < 3*linger {
				t.Errorf("closed after %v, want %v: %q", r.Took, 4*linger, r.Detail)
			}
			if got := app.Receive(); got != "send EPIPE" {
				t.Errorf("application: %q", got)
			}
		})

		t.Run("syn_sent to a black hole", func(t *testing.T) {
			// A static neighbour entry: the peer drops the packets.
			mac := strings.Fields(nstest.Command(t, "ip", "-n", "peer", "-o", "link", "show", "one"))
			lladdr := ""
			for i, word := range mac {
				if word == "link/ether" {
					lladdr = mac[i+1]
				}
			}
			hole := netip.MustParseAddrPort("10.99.0.66:4242")
			nstest.Command(t, "ip", "neigh", "add", hole.Addr().String(), "lladdr", lladdr, "dev", "one", "nud", "permanent")
			methods := map[hangup.Method]hangup.Method{hangup.Shutdown: hangup.Shutdown, hangup.Destroy: hangup.Destroy}
			if !kernelAtLeast6(1) {
				// shutdown(2) returns EBUSY; see TestPrivilegedShutdownBusy.
				methods = map[hangup.Method]hangup.Method{hangup.Auto: hangup.Destroy, hangup.Destroy: hangup.Destroy}
			}
			for method, took := range methods {
				app := testapp.Start(t, binary)
				app.Call("ignore")
				app.Send("connect %s %d tcp", hole.Addr(), hole.Port())
				nstest.Eventually(t, "the application is connecting", func() bool {
					flows := sockets(t, hole.Port())
					return len(flows) == 1 && flows[0].State == sockdiag.SynSent
				})
				expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(hole), Method: method})), hangup.Closed, "", took)
				// shutdown(2) resets a connection attempt.
				if got := app.Receive(); got != "connect ECONNABORTED -1" && got != "connect ECONNRESET -1" {
					t.Errorf("%s: application: %q", method, got)
				}
			}
		})

		t.Run("orphan", func(t *testing.T) {
			for _, tt := range []struct {
				a       *Actuator
				method  hangup.Method
				outcome hangup.Outcome
				took    hangup.Method
			}{
				{a: withoutDestroy(unix.EPERM), method: hangup.Auto, outcome: hangup.Lingering, took: hangup.None},
				{a: New(Config{}), method: hangup.Shutdown, outcome: hangup.Lingering, took: hangup.None},
				{a: New(Config{}), method: hangup.Auto, outcome: hangup.Closed, took: hangup.Destroy},
				{a: New(Config{}), method: hangup.Destroy, outcome: hangup.Closed, took: hangup.Destroy},
			} {
				reason := hangup.Reason("")
				// Before Linux 6.11 an orphan is not destroyed.
				if tt.took == hangup.Destroy && !destroysOrphans() {
					tt.outcome, tt.took = hangup.Lingering, hangup.None
					if tt.method == hangup.Destroy {
						tt.outcome, reason = hangup.Refused, hangup.ReasonPermission
					}
				}
				var server *testapp.Server
				peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0"}) })
				destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), server.Addr().Port())
				app := testapp.Start(t, binary)
				fd := app.Connect(destination, false, false)
				peer.Cut("one")
				app.Call("close %d", fd)
				expect(t, only(t, mustHangUp(t, tt.a, hangup.Request{Selector: to(destination), Method: tt.method, Linger: linger})), tt.outcome, reason, tt.took)
				peer.Restore("one")
			}
		})

		t.Run("time_wait", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			fd := app.Connect(server.Addr(), false, false)
			app.Call("close %d", fd)
			nstest.Eventually(t, "the flow is in TIME_WAIT", func() bool {
				flows := sockets(t, server.Addr().Port())
				return len(flows) == 1 && flows[0].State == sockdiag.TimeWait
			})
			if report := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr())}); len(report.Results) != 0 {
				t.Errorf("results: %+v", report.Results)
			}
		})

		t.Run("holder in another network namespace", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			fd := app.Connect(server.Addr(), false, false)
			if got := app.Call("netns /run/netns/peer"); got != "netns ok" {
				t.Fatal(got)
			}
			expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr())})), hangup.Closed, "", hangup.Shutdown)
			if got := app.Call("recv %d", fd); got != "recv ok 0" {
				t.Errorf("application: %q", got)
			}
		})

		t.Run("never", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			app.Connect(server.Addr(), false, false)
			expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{
				Selector: sockdiag.Selector{Destinations: sockdiag.Everywhere()},
				Never:    []sockdiag.Selector{to(server.Addr())},
			})), hangup.Refused, hangup.ReasonDenied, hangup.None)
		})

		t.Run("comes to life", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			opened := time.Now()
			fd := app.Connect(server.Addr(), false, false)
			selector := to(server.Addr())
			selector.MinIdle = time.Second
			report := mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, DryRun: true})
			if fresh := time.Since(opened) < selector.MinIdle; report.Covered != 1 || fresh && len(report.Results) != 0 {
				t.Errorf("a fresh flow counts as idle: %+v", report)
			}
			for _, method := range hangup.Methods() {
				nstest.Eventually(t, "the flow is idle", func() bool {
					now := flowTo(t, server.Addr())
					idle, _ := now.Idle()
					return idle >= selector.MinIdle
				})
				a := New(Config{})
				beforeTurn(a, func(*sockdiag.Flow) { app.Call("write %d", fd) })
				expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: selector, Method: method})), hangup.Refused, hangup.ReasonEvidence, hangup.None)
				if got := app.Call("write %d", fd); got != "write ok 1" {
					t.Errorf("%s: application: %q", method, got)
				}
			}
		})

		t.Run("context ends", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			for range 5 {
				app.Connect(server.Addr(), false, false)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			a := New(Config{})
			reached := 0
			beforeTurn(a, func(*sockdiag.Flow) {
				if reached++; reached == 3 {
					cancel()
				}
			})
			report, err := a.HangUp(ctx, hangup.Request{Selector: to(server.Addr())})
			if err != nil {
				t.Fatal(err)
			}
			if n := report.Count(hangup.Planned); n != 3 || report.Count(hangup.Closed, hangup.HalfClosed, hangup.Lingering) != 2 {
				t.Errorf("%d flows planned: %+v", n, report.Results)
			}
			nstest.Eventually(t, "three flows are left", func() bool { return len(sockets(t, server.Addr().Port())) == 3+2 })
		})

		t.Run("dry run", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			fd := app.Connect(server.Addr(), false, false)
			for method, want := range map[hangup.Method]hangup.Method{hangup.Auto: hangup.Shutdown, hangup.Shutdown: hangup.Shutdown, hangup.Destroy: hangup.Destroy} {
				expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Method: method, DryRun: true})), hangup.Planned, "", want)
			}
			expect(t, only(t, mustHangUp(t, withoutDestroy(unix.EPERM), hangup.Request{Selector: to(server.Addr()), Method: hangup.Destroy, DryRun: true})), hangup.Refused, hangup.ReasonPermission, hangup.None)
			if got := app.Call("write %d", fd); got != "write ok 1" {
				t.Errorf("application: %q", got)
			}
		})
	})
}
