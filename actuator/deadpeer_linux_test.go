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

// withoutDestroy returns an Actuator whose SOCK_DESTROY fails with errno.
func withoutDestroy(errno unix.Errno) *Actuator {
	a := New(Config{})
	a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error {
		return fmt.Errorf("destroy socket: %w", errno)
	}
	return a
}

// sockets returns every socket with the remote port, in any state.
func sockets(t *testing.T, port uint16) []sockdiag.Flow {
	t.Helper()
	conn, err := sockdiag.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	protocols := []sockdiag.Protocol{sockdiag.TCP}
	if nstest.HasMPTCP() {
		protocols = append(protocols, sockdiag.MPTCP)
	}
	var found []sockdiag.Flow
	for _, protocol := range protocols {
		for f, err := range conn.Flows(t.Context(), sockdiag.Query{Protocol: protocol, States: ^sockdiag.StateSet(0), Info: true}) {
			if err != nil {
				t.Fatal(err)
			}
			// The application still holds an MPTCP socket in state Close.
			if f.Remote.Port() == port && f.State != sockdiag.Close {
				found = append(found, f)
			}
		}
	}
	return found
}

// With a dead peer, the application reads EOF at once, and the kernel's socket is gone
// after linger.
func TestPrivilegedDeadPeer(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const linger = time.Second
		binary := testapp.Build(t)
		peer := nstest.NewPeer(t)
		cut := func(t *testing.T) {
			peer.Cut("one", "two")
			t.Cleanup(func() { peer.Restore("one", "two") })
		}
		// Packets still arrive at the host, which no longer has the address.
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
			pending bool // the application has unacknowledged data
			a       *Actuator
			outcome hangup.Outcome
			left    bool // a socket remains at linger + 2 s
		}{
			{name: "links cut", die: cut, a: New(Config{}), outcome: hangup.Closed},
			{name: "address moved away", die: moved, a: New(Config{}), outcome: hangup.Closed},
			{name: "own link down", die: ownLink, a: New(Config{}), outcome: hangup.Closed},
			{name: "data unacknowledged", die: cut, pending: true, a: New(Config{}), outcome: hangup.Closed},
			{name: "no right to destroy", die: cut, a: withoutDestroy(unix.EPERM), outcome: hangup.Lingering},
			{name: "no right to destroy, data unacknowledged", die: cut, pending: true, a: withoutDestroy(unix.EPERM), outcome: hangup.Lingering},
			{name: "kernel without destroy", die: cut, a: withoutDestroy(unix.EOPNOTSUPP), outcome: hangup.Lingering},
			{name: "mptcp with two subflows", die: cut, mptcp: true, a: New(Config{}), outcome: hangup.Closed},
			{name: "mptcp, data unacknowledged", die: cut, mptcp: true, pending: true, a: New(Config{}), outcome: hangup.Closed},
			// MPTCP sockets have no TCP_USER_TIMEOUT: only destroy closes the subflows in time.
			{name: "mptcp, no right to destroy", die: cut, mptcp: true, a: withoutDestroy(unix.EPERM), outcome: hangup.Lingering, left: true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				if tt.mptcp {
					nstest.NeedMPTCP(t)
				}
				var server *testapp.Server
				peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: tt.mptcp}) })
				port := server.Addr().Port()
				destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port)
				app := testapp.Start(t, binary)
				app.Call("ignore")
				fd := app.Connect(destination, false, tt.mptcp)
				app.Call("write %d", fd)
				if tt.mptcp {
					awaitSubflows(t, port, 2)
				}
				tt.die(t)
				if tt.pending {
					app.Call("write %d", fd)
				}
				app.Block("recv", fd, unix.SYS_RECVFROM)

				// setUserTimeout runs directly after shutdown(2).
				shutDown := false
				tt.a.setUserTimeout = func(fd int, linger time.Duration) error {
					shutDown = true
					if got := app.Receive(); got != "recv ok 0" {
						t.Errorf("application: %q", got)
					}
					flows := sockets(t, port) // MPTCP connections come last
					if n := len(flows); n == 0 || flows[n-1].State != sockdiag.FinWait1 {
						t.Errorf("at EOF the kernel has %+v, want the connection in FIN_WAIT1", flows)
					}
					return setUserTimeout(fd, linger)
				}
				start := time.Now()
				r := only(t, mustHangUp(t, tt.a, hangup.Request{Selector: to(destination), Linger: linger}))
				outcome := tt.outcome
				if r.Outcome == hangup.Closed && !tt.left {
					outcome = hangup.Closed // TCP_USER_TIMEOUT expires after linger as well
				}
				expect(t, r, outcome, "", hangup.Shutdown)
				if !shutDown {
					t.Fatal("the flow was not shut down")
				}
				t.Logf("outcome %s (%s)", r.Outcome, r.Detail)
				if !tt.left { // tcp_retries2 alone takes 15 minutes
					nstest.Eventually(t, "no socket is left", func() bool { return len(sockets(t, port)) == 0 })
					return
				}
				time.Sleep(time.Until(start.Add(linger + 2*time.Second)))
				if len(sockets(t, port)) == 0 {
					t.Errorf("no socket remains %v after the start", time.Since(start))
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
			// The other cases close their sockets within this time.
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
