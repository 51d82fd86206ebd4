package actuator

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// A connection that lost its last subflow matches by its own address and is hung up.
func TestPrivilegedMPTCPWithoutSubflows(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		noLeaks(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: true})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, true)
		app.Block("recv", fd, unix.SYS_RECVFROM)
		conn, err := sockdiag.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		selector := to(server.Addr())
		for f, err := range conn.Flows(t.Context(), sockdiag.Query{States: sockdiag.Open, Selector: &selector}) {
			if err != nil {
				t.Fatal(err)
			}
			if f.Remote == server.Addr() {
				if err := conn.Destroy(t.Context(), &f); err != nil {
					t.Fatal(err)
				}
				break
			}
		}
		r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, Linger: 500 * time.Millisecond}))
		if len(r.Subflows) != 0 {
			t.Errorf("connection still has subflows %+v", r.Subflows)
		}
		// Without a subflow for the FIN, the kernel may close the connection at once.
		if r.Outcome != hangup.HalfClosed && r.Outcome != hangup.Closed || r.Method != hangup.Shutdown {
			t.Errorf("got outcome %s, method %s (%s; %v)", r.Outcome, r.Method, r.Detail, r.Err)
		}
		if got := app.Receive(); got != "recv ok 0" {
			t.Errorf("application: %q", got)
		}
		app.Call("close %d", fd)
		if left, err := conn.Lookup(t.Context(), &r.Flow); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after the application has closed it the connection is %+v, %v", left, err)
		}
	})
}

// The subflow of a connection that is younger than the dump of connections is not treated
// as plain TCP: destroying it would not notify the application.
func TestPrivilegedNewMPTCP(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		const opened = 400
		binary := testapp.Build(t)
		for _, method := range []hangup.Method{hangup.Destroy, hangup.Auto} {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: true, Echo: true})
			app := testapp.Start(t, binary)
			if method == hangup.Destroy {
				app.Call("ignore") // auto: SIGPIPE prevents shutdown
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range opened {
					app.Connect(server.Addr(), false, true)
				}
			}()
			a, actions := New(Config{}), 0
			for running := true; running; actions++ {
				select {
				case <-done:
					running = false
				default:
				}
				for _, r := range mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Method: method, Linger: time.Millisecond}).Results {
					if r.Outcome != hangup.Refused {
						t.Fatalf("%s: %+v", method, r)
					}
				}
			}
			flows := sockets(t, server.Addr().Port())
			subflows, connections := 0, 0
			for _, f := range flows {
				if f.Remote == server.Addr() && f.State == sockdiag.Established {
					if f.Protocol == sockdiag.MPTCP {
						connections++
					} else {
						subflows++
					}
				}
			}
			if connections != opened || subflows != opened {
				t.Errorf("%s: after %d actions %d connections have %d subflows, want %d of both", method, actions, connections, subflows, opened)
			}
			app.Kill()
		}
	})
}

// Subflows that join before the hang-up count for the never list and for Request.Shared, and
// are closed as well.
func TestPrivilegedLateJoin(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		peer := nstest.NewPeer(t)
		binary := testapp.Build(t)
		for _, tt := range []struct {
			name    string
			never   []sockdiag.Selector
			shared  func(*sockdiag.Flow) bool
			outcome hangup.Outcome
			reason  hangup.Reason
			method  hangup.Method
		}{
			{name: "never", never: []sockdiag.Selector{{Destinations: []netip.Prefix{netip.MustParsePrefix(nstest.Peer4Two + "/32")}}}, outcome: hangup.Refused, reason: hangup.ReasonDenied, method: hangup.None},
			{name: "shared", shared: func(f *sockdiag.Flow) bool { return f.Remote.Addr().Unmap().String() == nstest.Peer4Two }, outcome: hangup.Refused, reason: hangup.ReasonShared, method: hangup.None},
			{name: "dead peer", outcome: hangup.Closed, method: hangup.Shutdown},
		} {
			t.Run(tt.name, func(t *testing.T) {
				nstest.Command(t, "ip", "-n", "peer", "mptcp", "endpoint", "flush")
				var server *testapp.Server
				peer.Do(func() {
					server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true, KeepOpen: true})
				})
				port := server.Addr().Port()
				destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port)
				app := testapp.Start(t, binary)
				app.Call("ignore")
				app.Call("write %d", app.Connect(destination, false, true))
				a := New(Config{})
				joined := false
				beforeTurn(a, func(*sockdiag.Flow) {
					if joined {
						return
					}
					joined = true
					nstest.Command(t, "ip", "-n", "peer", "mptcp", "endpoint", "add", nstest.Peer4Two, "dev", "two", "signal")
					awaitSubflows(t, port, 2)
					peer.Cut("one", "two")
				})
				t.Cleanup(func() { peer.Restore("one", "two") })
				r := only(t, mustHangUp(t, a, hangup.Request{Selector: to(destination), Linger: 500 * time.Millisecond, Never: tt.never, Shared: tt.shared}))
				expect(t, r, tt.outcome, tt.reason, tt.method)
				if left := sockets(t, port); tt.outcome == hangup.Closed && len(left) > 0 {
					t.Errorf("left: %+v", left)
				}
			})
		}
	})
}

// An MPTCP connection to a dead peer that its application has closed is destroyed with
// all subflows after linger.
func TestPrivilegedClosedMPTCP(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		peer := nstest.NewPeer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true}) })
		port := server.Addr().Port()
		app := testapp.Start(t, testapp.Build(t))
		fd := app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), false, true)
		app.Call("write %d", fd)
		awaitSubflows(t, port, 2)
		peer.Cut("one", "two")
		app.Call("close %d", fd)
		const linger = 500 * time.Millisecond
		start := time.Now()
		r := only(t, mustHangUp(t, New(Config{}), hangup.Request{
			Selector: to(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4Two), port)), Linger: linger,
		}))
		if took := time.Since(start); took < linger {
			t.Errorf("the action waited %v for the peer, want %v", took, linger)
		}
		if !destroysOrphans() { // before Linux 6.11
			expect(t, r, hangup.Lingering, "", hangup.None)
			return
		}
		expect(t, r, hangup.Closed, "", hangup.Destroy)
		if left := sockets(t, port); len(left) > 0 {
			t.Errorf("left: %+v", left)
		}
	})
}

// A stalled TCP or MPTCP connection that recovers before the hang-up is refused.
func TestPrivilegedRecovered(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		binary := testapp.Build(t)
		nstest.TCPAndMPTCP(t, func(t *testing.T, mptcp bool) {
			var server *testapp.Server
			peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true}) })
			port := server.Addr().Port()
			destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port)
			app := testapp.Start(t, binary)
			app.Call("ignore")
			fd := app.Connect(destination, false, mptcp)
			app.Call("write %d", fd)
			if mptcp {
				awaitSubflows(t, port, 2)
				peer.Cut("two")
				nstest.Command(t, "ip", "link", "set", "two", "down")
			}
			peer.Cut("one")
			app.Call("write %d", fd)
			subflows := func() (first sockdiag.Flow, others []sockdiag.Flow) {
				for _, f := range sockets(t, port) {
					switch {
					case f.Protocol != sockdiag.TCP:
					case f.Remote == destination:
						first = f
					default:
						others = append(others, f)
					}
				}
				return first, others
			}
			// A link without a carrier drops packets before TCP counts them as sent: TCP
			// probes first, and retries count from the first transmission. The second
			// subflow has no route, so TCP never transmits on it.
			nstest.Eventually(t, "all subflows are stalled", func() bool {
				first, others := subflows()
				return first.Stalled() && first.Timer == sockdiag.TimerRetransmit &&
					!slices.ContainsFunc(others, func(f sockdiag.Flow) bool { return !f.Stalled() })
			})
			selector := to(destination)
			selector.Stalled = true
			a := New(Config{})
			beforeTurn(a, func(*sockdiag.Flow) {
				peer.Restore("one")
				nstest.Eventually(t, "the flow recovers", func() bool {
					first, _ := subflows()
					return first.State == sockdiag.Established && first.SendQueue == 0
				})
			})
			expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: selector})), hangup.Refused, hangup.ReasonEvidence, hangup.None)
			if got := app.Call("write %d", fd); got != "write ok 1" {
				t.Errorf("mptcp %v: application: %q", mptcp, got)
			}
			app.Kill()
		})
	})
}

// The evidence of a connection that fell back to TCP is that of its TCP flow.
func TestPrivilegedFallbackEvidence(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", Echo: true})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, true)
		const silence = 300 * time.Millisecond
		start := time.Now()
		selector := to(server.Addr())
		selector.MinPeerSilence = silence
		nstest.Eventually(t, "the flow is older than the silence and its peer has just responded", func() bool {
			asked := time.Now()
			app.Call("write %d", fd)
			app.Call("recv %d", fd)
			report := mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, DryRun: true})
			if time.Since(asked) >= silence {
				return false // the machine is too slow
			}
			if len(report.Results) != 0 {
				t.Fatalf("the peer has just responded but counts as silent: %+v", report.Results)
			}
			return asked.Sub(start) > 2*silence
		})
		nstest.Eventually(t, "the peer has been silent", func() bool {
			return len(mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, DryRun: true}).Results) == 1
		})
	})
}
