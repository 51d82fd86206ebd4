package actuator

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// A descriptor that refers to another connection since the scan is not shut down.
func TestPrivilegedReusedDescriptor(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		bystander := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		for round := range 200 {
			fd := app.Connect(server.Addr(), false, false)
			bystanding := app.Connect(bystander.Addr(), false, false)
			other := bystanding
			kept, sameDestination := round%2 == 1, round%4 >= 2
			a := New(Config{})
			acquired := false
			beforeTurn(a, func(*sockdiag.Flow) {
				if acquired {
					return
				}
				acquired = true
				if kept { // the flow has another descriptor
					app.Call("dup2 %d 99", fd)
				}
				if sameDestination { // a connection that is younger than the scan
					other = app.Connect(server.Addr(), false, false)
				}
				app.Call("dup2 %d %d", other, fd)
			})
			r := only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Method: hangup.Shutdown, Linger: 300 * time.Millisecond}))
			if kept {
				expect(t, r, hangup.Closed, "", hangup.Shutdown)
			} else if r.Outcome != hangup.Gone {
				t.Errorf("outcome is %s (%s), want gone", r.Outcome, r.Detail)
			}
			if got := app.Call("write %d", other); got != "write ok 1" {
				t.Fatalf("round %d: bystander: %s", round, got)
			}
			for _, number := range []int{fd, other, bystanding, 99} {
				app.Call("close %d", number)
			}
			nstest.Eventually(t, "the sockets of this round are gone", func() bool {
				return !slices.ContainsFunc(sockets(t, server.Addr().Port()), func(f sockdiag.Flow) bool { return f.State != sockdiag.TimeWait })
			})
		}
		if !bystander.Listens() {
			t.Error("the bystander's listener is gone")
		}
	})
}

// A socket has unusual or changing holders.
func TestPrivilegedHolders(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		setup := func(t *testing.T) (*testapp.Server, *testapp.App, int) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			return server, app, app.Connect(server.Addr(), false, false)
		}
		t.Run("descriptor 0", func(t *testing.T) {
			server, app, fd := setup(t)
			app.Call("dup2 %d 0", fd)
			app.Call("close %d", fd)
			expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr())})), hangup.Closed, "", hangup.Shutdown)
			if got := app.Call("recv 0"); got != "recv ok 0" {
				t.Errorf("application: %q", got)
			}
		})
		t.Run("every descriptor has moved", func(t *testing.T) {
			server, app, first := setup(t)
			numbers := []int{first}
			for range 9 {
				numbers = append(numbers, app.Connect(server.Addr(), false, false))
			}
			a := New(Config{})
			move := sync.OnceFunc(func() {
				for _, fd := range numbers {
					app.Call("dup2 %d %d", fd, fd+100)
					app.Call("close %d", fd)
				}
			})
			beforeTurn(a, func(*sockdiag.Flow) { move() })
			report := mustHangUp(t, a, hangup.Request{Selector: to(server.Addr())})
			if n := report.Count(hangup.Closed); n != len(numbers) {
				t.Errorf("%d of %d flows were closed: %+v", n, len(numbers), report.Results)
			}
		})
		t.Run("two processes", func(t *testing.T) {
			server, app, fd := setup(t)
			app.Call("fork")
			expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr())})), hangup.Closed, "", hangup.Shutdown)
			if got := app.Call("recv %d", fd); got != "recv ok 0" {
				t.Errorf("application: %q", got)
			}
			if got := <-server.Ends; got != "eof" {
				t.Errorf("peer: %q", got)
			}
		})
		t.Run("process ends meanwhile", func(t *testing.T) {
			server, app, _ := setup(t)
			a := New(Config{})
			beforeTurn(a, func(*sockdiag.Flow) { app.Kill() })
			r := only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr())}))
			if r.Outcome != hangup.Gone {
				t.Errorf("outcome is %s (%s), want gone", r.Outcome, r.Detail)
			}
		})
		t.Run("process ends, another one holds it", func(t *testing.T) {
			server, app, _ := setup(t)
			app.Call("fork")
			a := New(Config{})
			beforeTurn(a, func(*sockdiag.Flow) { app.Kill() })
			expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr())})), hangup.Closed, "", hangup.Shutdown)
			if got := <-server.Ends; got != "eof" {
				t.Errorf("peer: %q", got)
			}
		})
		t.Run("our own", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			conn, err := net.Dial("tcp", server.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for _, method := range hangup.Methods() {
				expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Method: method})), hangup.Refused, hangup.ReasonSelf, hangup.None)
			}
		})
		t.Run("listener", func(t *testing.T) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			selector := sockdiag.Selector{
				Destinations: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
				Ports:        sockdiag.Ports(server.Addr().Port()),
				Direction:    sockdiag.Either,
				States:       sockdiag.States(sockdiag.Listen),
			}
			for _, method := range hangup.Methods() {
				expect(t, only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, Method: method})), hangup.Refused, hangup.ReasonListener, hangup.None)
			}
			if !server.Listens() {
				t.Error("the listener is gone")
			}
		})
	})
}

// verify rejects another cookie, address or peer, a listener, and other files.
func TestVerifyRefuses(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	remote := client.RemoteAddr().(*net.TCPAddr).AddrPort()

	withFD(t, client.(*net.TCPConn), func(fd int) {
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			t.Fatal(err)
		}
		flow := sockdiag.Flow{Cookie: cookie, Local: client.LocalAddr().(*net.TCPAddr).AddrPort(), Remote: remote}
		if err := verify(fd, &flow); err != nil {
			t.Errorf("the flow itself: %v", err)
		}
		other := flow
		other.Cookie++
		if err := verify(fd, &other); !errors.Is(err, errIdentity) {
			t.Errorf("another cookie: %v", err)
		}
	})
	withFD(t, listener.(*net.TCPListener), func(fd int) {
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(fd, &sockdiag.Flow{Cookie: cookie}); !errors.Is(err, errListener) {
			t.Errorf("a listener: %v", err)
		}
	})
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := verify(int(file.Fd()), &sockdiag.Flow{}); !errors.Is(err, errIdentity) {
		t.Errorf("a file: %v", err)
	}
}

func withFD(t *testing.T, c syscall.Conn, fn func(fd int)) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { fn(int(fd)) }); err != nil {
		t.Fatal(err)
	}
}

// disconnect dissolves the association of a socket (connect(2), AF_UNSPEC).
func disconnect(t *testing.T, fd int) {
	t.Helper()
	var unspecified [16]byte
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified[0])), uintptr(len(unspecified)))
	if errno != 0 {
		t.Fatalf("disconnect: %v", errno)
	}
}
