package actuator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
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

// After EOF an application may use the same socket for a listener or another connection,
// with the same cookie and local address. The action reports the old flow as closed and
// does not touch the new one.
func TestPrivilegedReusedSocket(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		for i, method := range []hangup.Method{hangup.Auto, hangup.Shutdown} {
			for j, listens := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, listens %t", method, listens), func(t *testing.T) {
					server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", KeepOpen: true})
					own := 45001 + 2*i + j
					app := testapp.Start(t, binary)
					app.Call("ignore")
					var fd int
					if _, err := fmt.Sscanf(app.Call("bound 127.0.0.1 %d %d", server.Addr().Port(), own), "bound ok %d", &fd); err != nil {
						t.Fatal(err)
					}
					app.Send("recv %d", fd)
					done, shut := make(chan *hangup.Report), make(chan struct{})
					a := New(Config{})
					a.setUserTimeout = func(int, time.Duration) error {
						close(shut) // the addresses were compared
						return nil
					}
					go func() {
						report, err := a.HangUp(t.Context(), hangup.Request{Selector: to(server.Addr()), Method: method, Linger: time.Second})
						if err != nil {
							t.Error(err)
						}
						done <- report
					}()
					if got := app.Receive(); got != "recv ok 0" {
						t.Fatalf("application: %q", got)
					}
					<-shut
					port := server.Addr().Port()
					if listens {
						port = 0
					}
					if got := app.Call("again %d %d", fd, port); got != "again ok" {
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
					if got := app.Call("write %d", fd); got != "write ok 1" {
						t.Errorf("the new connection is gone: %s", got)
					}
				})
			}
		}
	})
}

// A socket that the application reuses before the last lookup stays open, and so does one that
// it reuses after that lookup, before its addresses are compared. A socket that is disconnected
// during or after shutdown(2) is reported as failed: its next connection may be shut down.
func TestPrivilegedReusedAtLastLookup(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		const same, other, listener, none, connecting = "the same peer", "another peer", "a listener", "no peer", "another peer, still connecting"
		const before, delayed, after, ended, eof = "before the lookup", "after the lookup, before shutdown(2) begins", "after the lookup", "after the lookup, which closes at once", "after shutdown(2)"
		for _, tt := range []struct {
			next, when string // use of the socket, and its time
			outcome    hangup.Outcome
		}{
			{other, before, hangup.Gone},
			{same, before, hangup.Gone},
			{listener, before, hangup.Gone},
			{other, delayed, hangup.Gone},
			{same, delayed, hangup.Gone},
			{other, after, hangup.Failed},
			{none, after, hangup.Failed},
			{connecting, after, hangup.Failed},
			{other, ended, hangup.Failed},
			{other, eof, hangup.Failed},
		} {
			t.Run(tt.next+" "+tt.when, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
				elsewhere := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", Echo: true})
				silent := silentPort(t)
				port := map[string]uint16{same: server.Addr().Port(), other: elsewhere.Addr().Port()}[tt.next]
				app := testapp.Start(t, binary)
				app.Call("ignore")
				fd := app.Connect(server.Addr(), false, false)
				var log strings.Builder
				a := New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				reuse := func() {
					switch tt.next {
					case connecting:
						app.Send("again %d %d", fd, silent)
						nstest.Eventually(t, "the application is connecting", func() bool { return len(sockets(t, silent)) == 2 })
					case none:
						app.Call("disconnect %d", fd)
					default:
						if got := app.Call("again %d %d", fd, port); got != "again ok" {
							t.Errorf("application: %q", got)
						}
					}
				}
				confirm, shutdown := a.confirm, a.shutdown
				a.confirm = func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error) {
					if tt.when == before {
						reuse()
					}
					confirmed, err := confirm(ctx, conn, flow)
					if tt.when == delayed {
						reuse()
					}
					return confirmed, err
				}
				a.shutdown = func(fd int) error {
					if tt.when == after || tt.when == ended {
						reuse()
					}
					err := shutdown(fd)
					switch tt.when {
					case ended:
						nstest.Eventually(t, "the connection has ended", func() bool { return !readAddresses(fd).remote.IsValid() })
					case eof:
						reuse()
					}
					return err
				}
				r := only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Linger: time.Second}))
				if tt.next == connecting && !kernelAtLeast6(1) {
					tt.outcome = hangup.Gone // shutdown(2) returns EBUSY: the connection attempt goes on
				}
				if r.Outcome != tt.outcome {
					t.Errorf("got outcome %s (%s, %v), want %s", r.Outcome, r.Detail, r.Err, tt.outcome)
				}
				if tt.next == connecting && tt.outcome == hangup.Gone {
					return
				}
				if tt.outcome == hangup.Failed {
					if r.Err == nil || !strings.Contains(log.String(), "level=ERROR") {
						t.Errorf("error %v, log %q", r.Err, log.String())
					}
					return
				}
				if tt.next != listener {
					if got := app.Call("write %d", fd); got != "write ok 1" {
						t.Errorf("the new connection was closed: %s", got)
					}
				} else if !slices.ContainsFunc(listeners(t), func(f sockdiag.Flow) bool { return f.Cookie == r.Flow.Cookie }) {
					t.Error("the new listener was closed")
				}
			})
		}
	})
}

// silentPort returns a port of loopback that answers no more SYN: its accept queue has one
// connection and is full.
func silentPort(t *testing.T) uint16 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	address := readAddresses(fd).local
	conn, err := net.Dial("tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return address.Port()
}

// Sockets that their application connects elsewhere directly before the last lookup stay
// open, all of them.
func TestPrivilegedReusedThousand(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const flows = 1000
		from, app := testapp.Load(t, testapp.Build(t), netip.MustParseAddr("127.0.0.2"), flows)
		elsewhere := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", Echo: true})
		descriptor := make(map[string]string) // of the application, by socket
		dir := fmt.Sprintf("/proc/%d/fd/", app.PID())
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			link, err := os.Readlink(dir + e.Name())
			if err != nil {
				t.Fatal(err)
			}
			descriptor[link] = e.Name()
		}
		a := New(Config{})
		confirm := a.confirm
		var changed []string
		a.confirm = func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error) {
			fd := descriptor[fmt.Sprintf("socket:[%d]", flow.Inode)]
			if got := app.Call("again %s %d", fd, elsewhere.Addr().Port()); got != "again ok" {
				t.Errorf("application: %q", got)
			}
			changed = append(changed, fd)
			return confirm(ctx, conn, flow)
		}
		report := mustHangUp(t, a, hangup.Request{Selector: to(from)})
		if n := report.Count(hangup.Gone); n != flows || len(report.Results) != flows || len(changed) != flows {
			t.Errorf("%d of %d flows are gone, %d changed, want %d", n, len(report.Results), len(changed), flows)
		}
		for _, fd := range changed {
			if got := app.Call("write %s", fd); got != "write ok 1" {
				t.Errorf("the new connection was closed: %s", got)
			}
		}
		open := 0
		for _, f := range sockets(t, elsewhere.Addr().Port()) {
			if f.State == sockdiag.Established {
				open++
			}
		}
		if open != flows {
			t.Errorf("%d new connections are open, want %d", open, flows)
		}
	})
}

// Before Linux 6.1 shutdown(2) of a socket in SYN_SENT returns EBUSY while a thread waits
// in connect(2). SOCK_DESTROY ends that flow.
func TestPrivilegedShutdownBusy(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		for method, want := range map[hangup.Method]struct {
			outcome hangup.Outcome
			method  hangup.Method
		}{
			hangup.Auto:     {hangup.Closed, hangup.Destroy},
			hangup.Shutdown: {hangup.Failed, hangup.Shutdown},
		} {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			app.Connect(server.Addr(), false, false)
			a := New(Config{})
			a.shutdown = func(int) error { return unix.EBUSY }
			expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Method: method})), want.outcome, "", want.method)
		}
	})
}

func listeners(t *testing.T) (found []sockdiag.Flow) {
	t.Helper()
	conn, err := sockdiag.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for f, err := range conn.Flows(t.Context(), sockdiag.Query{States: sockdiag.States(sockdiag.Listen)}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, f)
	}
	return found
}

// The last lookup rejects a bound socket that is connecting to another peer from the same address.
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
		if err := confirm(t, &flow); err != nil {
			t.Errorf("the flow itself: %v", err)
		}
		disconnect(t, fd)
		connect(silent, 4444)
		if err := confirm(t, &flow); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("connecting to another peer: %v, want %v", err, os.ErrNotExist)
		}
		connecting := flowTo(t, netip.MustParseAddrPort(silent+":4444"))
		if err := confirm(t, &connecting); err != nil {
			t.Errorf("a flow that was connecting at its selection: %v", err)
		}
	})
}

// confirm is the lookup directly before shutdown(2).
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

// The last lookup rejects a socket that was disconnected and connected again: it keeps
// its cookie.
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
