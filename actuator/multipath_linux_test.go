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

// A connection that is younger than the dump of connections is not taken for plain
// TCP: its last path would be destroyed, and its application never know.
func TestPrivilegedYoungMPTCP(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		const opened = 400
		binary := testapp.Build(t)
		for _, method := range []hangup.Method{hangup.Destroy, hangup.Auto} {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: true, Echo: true})
			app := testapp.Start(t, binary)
			if method == hangup.Destroy {
				app.Ask("ignore") // otherwise SIGPIPE keeps auto from shutdown
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
			paths, connections := 0, 0
			for _, f := range flows {
				if f.Remote == server.Addr() && f.State == sockdiag.Established {
					if f.Protocol == sockdiag.MPTCP {
						connections++
					} else {
						paths++
					}
				}
			}
			if connections != opened || paths != opened {
				t.Errorf("%s: after %d actions %d connections have %d paths, want %d of both", method, actions, connections, paths, opened)
			}
			app.Kill()
		}
	})
}

// Paths come while an action waits for its turn: they count for never rules, and
// are brought to an end with the others.
func TestPrivilegedLateJoin(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		peer := nstest.NewPeer(t)
		binary := testapp.Build(t)
		for _, tt := range []struct {
			name    string
			never   []sockdiag.Selector
			outcome hangup.Outcome
			reason  hangup.Reason
			method  hangup.Method
		}{
			{name: "never", never: []sockdiag.Selector{{Destinations: []netip.Prefix{netip.MustParsePrefix(nstest.Peer4Two + "/32")}}}, outcome: hangup.Refused, reason: hangup.ReasonDenied, method: hangup.None},
			{name: "dead peer", outcome: hangup.Closed, method: hangup.Shutdown},
		} {
			t.Run(tt.name, func(t *testing.T) {
				nstest.Command(t, "ip", "-n", "peer", "mptcp", "endpoint", "flush")
				var server *testapp.Server
				peer.Do(func() {
					server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true, Hold: true})
				})
				port := server.Addr().Port()
				destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port)
				app := testapp.Start(t, binary)
				app.Ask("ignore")
				app.Ask("write %d", app.Connect(destination, false, true))
				a := New(Config{})
				joined := false
				beforeTurn(a, func(*sockdiag.Flow) {
					if joined {
						return
					}
					joined = true
					nstest.Command(t, "ip", "-n", "peer", "mptcp", "endpoint", "add", nstest.Peer4Two, "dev", "two", "signal")
					awaitPaths(t, port, 2)
					peer.Cut("one", "two")
				})
				t.Cleanup(func() { peer.Restore("one", "two") })
				r := only(t, mustHangUp(t, a, hangup.Request{Selector: to(destination), Linger: 500 * time.Millisecond, Never: tt.never}))
				expect(t, r, tt.outcome, tt.reason, tt.method)
				if left := sockets(t, port); tt.outcome == hangup.Closed && len(left) > 0 {
					t.Errorf("left: %+v", left)
				}
			})
		}
	})
}

// An MPTCP connection that its application has closed, to a peer that is dead, is
// brought to an end with all of its paths.
func TestPrivilegedClosedMPTCP(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		peer := nstest.NewPeer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true}) })
		port := server.Addr().Port()
		app := testapp.Start(t, testapp.Build(t))
		fd := app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), false, true)
		app.Ask("write %d", fd)
		awaitPaths(t, port, 2)
		peer.Cut("one", "two")
		app.Ask("close %d", fd)
		const linger = 500 * time.Millisecond
		start := time.Now()
		r := only(t, mustHangUp(t, New(Config{}), hangup.Request{
			Selector: to(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4Two), port)), Linger: linger,
		}))
		if took := time.Since(start); took < linger {
			t.Errorf("the peer was given %v to answer, want %v", took, linger)
		}
		if !destroysOrphans() { // before Linux 6.11 it is left to the kernel
			expect(t, r, hangup.Lingering, "", hangup.None)
			return
		}
		expect(t, r, hangup.Closed, "", hangup.Destroy)
		if left := sockets(t, port); len(left) > 0 {
			t.Errorf("left: %+v", left)
		}
	})
}

// A flow that was stalled and has recovered before its turn is left alone, whether
// it has one path or several.
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
			app.Ask("ignore")
			fd := app.Connect(destination, false, mptcp)
			app.Ask("write %d", fd)
			if mptcp {
				awaitPaths(t, port, 2)
				peer.Cut("two")
				nstest.Command(t, "ip", "link", "set", "two", "down")
			}
			peer.Cut("one")
			app.Ask("write %d", fd)
			paths := func() (first sockdiag.Flow, others []sockdiag.Flow) {
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
			// A link without a carrier drops a packet before TCP counts it as sent. TCP
			// probes first, and its count of retries begins anew with the transmission.
			// The second path has no route, so TCP never transmits there.
			nstest.Eventually(t, "all paths are stalled for good", func() bool {
				first, others := paths()
				return first.Stalled() && first.Timer == sockdiag.TimerRetransmit &&
					!slices.ContainsFunc(others, func(f sockdiag.Flow) bool { return !f.Stalled() })
			})
			selector := to(destination)
			selector.Stalled = true
			a := New(Config{})
			beforeTurn(a, func(*sockdiag.Flow) {
				peer.Restore("one")
				nstest.Eventually(t, "the flow recovers", func() bool {
					first, _ := paths()
					return first.State == sockdiag.Established && first.SendQueue == 0
				})
			})
			expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: selector})), hangup.Refused, hangup.ReasonEvidence, hangup.None)
			if got := app.Ask("write %d", fd); got != "write ok 1" {
				t.Errorf("mptcp %v: application: %q", mptcp, got)
			}
			app.Kill()
		})
	})
}

// A connection that fell back to TCP has its evidence from its TCP flow.
func TestPrivilegedFallbackEvidence(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", Echo: true})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		fd := app.Connect(server.Addr(), false, true)
		const silence = 300 * time.Millisecond
		start := time.Now()
		selector := to(server.Addr())
		selector.MinPeerSilence = silence
		nstest.Eventually(t, "the flow is older than that and its peer has just answered", func() bool {
			asked := time.Now()
			app.Ask("write %d", fd)
			app.Ask("recv %d", fd)
			report := mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, DryRun: true})
			if time.Since(asked) >= silence {
				return false // it may have been silent since
			}
			if len(report.Results) != 0 {
				t.Fatalf("a peer that has just answered counts as silent: %+v", report.Results)
			}
			return asked.Sub(start) > 2*silence
		})
		nstest.Eventually(t, "the peer has been silent", func() bool {
			return len(mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, DryRun: true}).Results) == 1
		})
	})
}

// What is refused stays as it was, down to its options.
func TestPrivilegedRefusedIsUntouched(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		fd := app.Connect(server.Addr(), false, false)
		flow := flowTo(t, server.Addr())
		conn, err := sockdiag.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		x := &action{Actuator: New(Config{}), Request: hangup.Request{Selector: to(server.Addr()), Method: hangup.Auto, Linger: time.Second}, conn: conn}
		x.Selector.MinIdle = time.Second
		chosen := &target{Result: hangup.Result{Flow: flow}, holders: []holder{{pid: app.PID(), fd: fd}}}
		var now sockdiag.Flow
		nstest.Eventually(t, "the flow is idle", func() bool {
			var ok bool
			now, ok = x.recheck(t.Context(), chosen)
			return ok
		})
		app.Ask("write %d", fd) // while its owner is looked for
		chosen.Reason, chosen.ownersAt = "", time.Now()
		if x.hangUpOne(t.Context(), chosen, &now, false); chosen.Reason != hangup.ReasonEvidence || chosen.Method != hangup.None {
			t.Errorf("got %+v", chosen.Result)
		}
		own, err := duplicate(holder{pid: app.PID(), fd: fd}, &flow)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(own)
		if timeout, err := unix.GetsockoptInt(own, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || timeout != 0 {
			t.Errorf("TCP_USER_TIMEOUT is %d, %v", timeout, err)
		}
	})
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

// confirm is the last lookup before shutdown(2).
func confirm(t *testing.T, flow *sockdiag.Flow) error {
	t.Helper()
	conn, err := sockdiag.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = New(Config{}).confirm(t.Context(), conn, flow)
	return err
}

// A socket keeps its cookie when it is disconnected and connected anew, so the cookie
// alone does not identify the flow.
func TestPrivilegedSameSocketAgain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewPeer(t).Cut("one")
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		to := &unix.SockaddrInet4{Addr: server.Addr().Addr().As4(), Port: int(server.Addr().Port())}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		connect := func(sa unix.Sockaddr) {
			if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
				t.Fatal(err)
			}
		}
		connect(to)
		flow := flowTo(t, server.Addr())
		if err := confirm(t, &flow); err != nil {
			t.Fatalf("the flow itself: %v", err)
		}
		for name, next := range map[string]unix.Sockaddr{
			"the same peer from another port": to,
			"another peer, still connecting":  &unix.SockaddrInet4{Addr: netip.MustParseAddr(nstest.Peer4).As4(), Port: 4444},
		} {
			disconnect(t, fd)
			connect(next)
			if err := confirm(t, &flow); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
