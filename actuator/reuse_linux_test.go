package actuator

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// After EOF an application may use the same socket for a listener or another connection,
// with the same cookie and local address. The action reports the old flow as closed and
// does not touch the new one.
func TestPrivilegedReusedSocket(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		for i, method := range []hangup.Method{hangup.Auto, hangup.Shutdown} {
			for j, listens := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, listens %t", method, listens), func(t *testing.T) {
					server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", Hold: true})
					own := 45001 + 2*i + j
					app := testapp.Start(t, binary)
					app.Ask("ignore")
					var fd int
					if _, err := fmt.Sscanf(app.Ask("bound 127.0.0.1 %d %d", server.Addr().Port(), own), "bound ok %d", &fd); err != nil {
						t.Fatal(err)
					}
					app.Tell("recv %d", fd)
					done := make(chan *hangup.Report)
					go func() {
						report, err := New(Config{}).HangUp(t.Context(), hangup.Request{Selector: to(server.Addr()), Method: method, Linger: time.Second})
						if err != nil {
							t.Error(err)
						}
						done <- report
					}()
					if got := app.Hear(); got != "recv ok 0" {
						t.Fatalf("application: %q", got)
					}
					port := server.Addr().Port()
					if listens {
						port = 0
					}
					if got := app.Ask("again %d %d", fd, port); got != "again ok" {
						t.Fatalf("application: %q", got)
					}
					report := <-done
					if t.Failed() {
						return
					}
					if r := only(t, report); r.Outcome != hangup.Closed || r.Method != hangup.Shutdown {
						t.Errorf("got outcome %s, method %s (%s)", r.Outcome, r.Method, r.Detail)
					}
					if listens {
						conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", own))
						if err != nil {
							t.Errorf("the listener is gone: %v", err)
							return
						}
						_ = conn.Close()
						return
					}
					if got := app.Ask("write %d", fd); got != "write ok 1" {
						t.Errorf("the new connection is gone: %s", got)
					}
				})
			}
		}
	})
}

// verify rejects a bound socket that is connecting to another peer from the same address.
func TestPrivilegedReconnectedBoundSocket(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0"}) })
		destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), server.Addr().Port())
		const silent = "10.99.0.77"
		nstest.Command(t, "ip", "neigh", "replace", silent, "lladdr", "02:00:00:00:00:77", "dev", "one", "nud", "permanent")
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(nstest.Local4).As4(), Port: 45001}); err != nil {
			t.Fatal(err)
		}
		connect := func(address string, port uint16) {
			err := unix.Connect(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(address).As4(), Port: int(port)})
			if err != nil && !errors.Is(err, unix.EINPROGRESS) {
				t.Fatal(err)
			}
		}
		connect(nstest.Peer4, destination.Port())
		nstest.Eventually(t, "connected", func() bool { return flowTo(t, destination).State == sockdiag.Established })
		flow := flowTo(t, destination)
		if err := verify(fd, &flow); err != nil {
			t.Errorf("the flow itself: %v", err)
		}
		disconnect(t, fd)
		connect(silent, 4444)
		if err := verify(fd, &flow); !errors.Is(err, errIdentity) {
			t.Errorf("connecting to another peer: %v, want %v", err, errIdentity)
		}
		connecting := flowTo(t, netip.MustParseAddrPort(silent+":4444"))
		if err := verify(fd, &connecting); err != nil {
			t.Errorf("a flow that was connecting at its selection: %v", err)
		}
	})
}

// verify rejects a socket that was disconnected and connected again: it keeps its cookie.
func TestPrivilegedReconnectedSocket(t *testing.T) {
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
		if err := verify(fd, &flow); err != nil {
			t.Fatalf("the flow itself: %v", err)
		}
		for name, next := range map[string]unix.Sockaddr{
			"the same peer from another port": to,
			"another peer, still connecting":  &unix.SockaddrInet4{Addr: netip.MustParseAddr(nstest.Peer4).As4(), Port: 4444},
		} {
			disconnect(t, fd)
			connect(next)
			if err := verify(fd, &flow); !errors.Is(err, errIdentity) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
