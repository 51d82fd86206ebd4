package actuator

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// withoutDestroy is an Actuator on a kernel, or with rights, that do not allow
// SOCK_DESTROY.
func withoutDestroy(errno unix.Errno) *Actuator {
	a := New(Config{})
	a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error {
		return fmt.Errorf("destroy socket: %w", errno)
	}
	return a
}

// sockets returns every socket, in any state, that leads to the port.
func sockets(t *testing.T, port uint16) []sockdiag.Flow {
	t.Helper()
	conn, err := sockdiag.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var found []sockdiag.Flow
	for _, protocol := range []sockdiag.Protocol{sockdiag.TCP, sockdiag.MPTCP} {
		for f, err := range conn.Flows(t.Context(), sockdiag.Query{Protocol: protocol, States: ^sockdiag.StateSet(0), Info: true}) {
			if err != nil {
				t.Fatal(err)
			}
			// An MPTCP socket in state Close is only what the application still holds.
			if f.Remote.Port() == port && f.State != sockdiag.Close {
				found = append(found, f)
			}
		}
	}
	return found
}

// A dead peer answers nothing. The application is free at once all the same, and
// the kernel's side is gone soon after linger.
func TestPrivilegedDeadPeer(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const linger = time.Second
		binary := testapp.Build(t)
		peer := nstest.NewPeer(t)
		cut := func(t *testing.T) {
			peer.Cut("one", "two")
			t.Cleanup(func() { peer.Restore("one", "two") })
		}
		// Packets still arrive, at a host that does not know the address any more.
		moved := func(t *testing.T) {
			nstest.Command(t, "ip", "-n", "peer", "addr", "del", nstest.Peer4+"/24", "dev", "one")
			t.Cleanup(func() { nstest.Command(t, "ip", "-n", "peer", "addr", "add", nstest.Peer4+"/24", "dev", "one") })
		}
		ownLink := func(t *testing.T) {
			nstest.Command(t, "ip", "link", "set", "one", "down")
			t.Cleanup(func() { nstest.Command(t, "ip", "link", "set", "one", "up") })
		}
		for _, tt := range []struct {
			name    string
			die     func(*testing.T)
			mptcp   bool
			pending bool // the application has written something that was not acknowledged
			a       *Actuator
			outcome hangup.Outcome
			left    bool // whether a socket is left at linger + 2 s
		}{
			{name: "links cut", die: cut, a: New(Config{}), outcome: hangup.Closed},
			{name: "address moved away", die: moved, a: New(Config{}), outcome: hangup.Closed},
			{name: "own link down", die: ownLink, a: New(Config{}), outcome: hangup.Closed},
			{name: "data unacknowledged", die: cut, pending: true, a: New(Config{}), outcome: hangup.Closed},
			{name: "no right to destroy", die: cut, a: withoutDestroy(unix.EPERM), outcome: hangup.Lingering},
			{name: "no right to destroy, data unacknowledged", die: cut, pending: true, a: withoutDestroy(unix.EPERM), outcome: hangup.Lingering},
			{name: "kernel without destroy", die: cut, a: withoutDestroy(unix.EOPNOTSUPP), outcome: hangup.Lingering},
			{name: "mptcp with two paths", die: cut, mptcp: true, a: New(Config{}), outcome: hangup.Closed},
			{name: "mptcp, data unacknowledged", die: cut, mptcp: true, pending: true, a: New(Config{}), outcome: hangup.Closed},
			// Nothing but destroy takes the paths of a dead MPTCP peer down in time: its
			// socket has no TCP_USER_TIMEOUT. The report says lingering, and why.
			{name: "mptcp, no right to destroy", die: cut, mptcp: true, a: withoutDestroy(unix.EPERM), outcome: hangup.Lingering, left: true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				var server *testapp.Server
				peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: tt.mptcp}) })
				port := server.Addr().Port()
				destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port)
				app := testapp.Start(t, binary)
				app.Ask("ignore")
				fd := app.Connect(destination, false, tt.mptcp)
				app.Ask("write %d", fd)
				if tt.mptcp {
					awaitPaths(t, port, 2)
				}
				tt.die(t)
				if tt.pending {
					app.Ask("write %d", fd)
				}
				app.Block("recv", fd, unix.SYS_RECVFROM)

				heard := make(chan time.Time, 1)
				go func() {
					if got := app.Hear(); got != "recv ok 0" {
						t.Errorf("application: %q", got)
					}
					heard <- time.Now()
				}()
				start := time.Now()
				r := only(t, mustHangUp(t, tt.a, hangup.Request{Selector: to(destination), Linger: linger}))
				expect(t, r, tt.outcome, "", hangup.Shutdown)
				atMost := 50 * time.Millisecond
				if raceDetector {
					atMost *= 5
				}
				if after := (<-heard).Sub(start); after > atMost {
					t.Errorf("the application had its end of file after %v, want at most %v", after, atMost)
				} else {
					t.Logf("end of file after %v, outcome %s (%s)", after, r.Outcome, r.Detail)
				}
				deadline := start.Add(linger + 2*time.Second)
				for len(sockets(t, port)) > 0 && time.Now().Before(deadline) {
					time.Sleep(10 * time.Millisecond)
				}
				if left := sockets(t, port); (len(left) > 0) != tt.left {
					t.Errorf("sockets left %v after the start: %+v", time.Since(start), left)
				}
			})
		}

		t.Run("plain shutdown leaves it behind", func(t *testing.T) {
			var server *testapp.Server
			peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0"}) })
			app := testapp.Start(t, binary)
			fd := app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), server.Addr().Port()), false, false)
			flow := sockets(t, server.Addr().Port())[0]
			cut(t)
			own, err := duplicate(holder{pid: app.PID(), fd: fd}, &flow)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(own)
			if err := unix.Shutdown(own, unix.SHUT_RDWR); err != nil {
				t.Fatal(err)
			}
			// The contrast needs the very time in which the others have gone.
			deadline := time.Now().Add(linger + 2*time.Second)
			for time.Now().Before(deadline) {
				if left := sockets(t, server.Addr().Port()); len(left) != 1 || left[0].State != sockdiag.FinWait1 {
					t.Fatalf("got %+v, want the flow in FIN_WAIT1", left)
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	})
}
