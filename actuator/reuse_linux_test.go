package actuator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// An application that reads end of file may use the very socket once more. It has the
// same cookie and its own address, and is left alone: whoever waits for the end of what
// was chosen sees that it is over.
func TestPrivilegedNewLife(t *testing.T) {
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

// A socket that was chosen as a connection and is connecting now leads to somebody
// else, although its own address is the same when it is bound to it.
func TestPrivilegedBoundSocketAgain(t *testing.T) {
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
			t.Errorf("connecting to somebody else: %v, want %v", err, errIdentity)
		}
		connecting := flowTo(t, netip.MustParseAddrPort(silent+":4444"))
		if err := verify(fd, &connecting); err != nil {
			t.Errorf("a flow that was connecting when it was chosen: %v", err)
		}
	})
}

// A process that SIGPIPE kills may get hold of a flow while others are hung up first.
func TestPrivilegedLateHolder(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		app.Connect(server.Addr(), false, false)
		app.Connect(server.Addr(), false, false)
		a := New(Config{})
		a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error { return errors.ErrUnsupported }
		acted := 0
		beforeTurn(a, func(*sockdiag.Flow) {
			if acted++; acted == 2 {
				// The pace gives it the time.
				if got := app.Ask("fork default"); !strings.HasPrefix(got, "fork ok") {
					t.Errorf("application: %s", got)
				}
			}
		})
		report := mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Rate: 1})
		reasons := map[hangup.Reason]int{}
		for _, r := range report.Results {
			reasons[r.Reason]++
		}
		if reasons[""] != 1 || reasons[hangup.ReasonSIGPIPE] != 1 {
			t.Errorf("reasons %v: %+v", reasons, report.Results)
		}
	})
}

// Where a look at a flow takes longer than owners are fresh, as on a host with very many
// sockets, the flow is hung up all the same.
func TestPrivilegedSlowLook(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		app.Connect(server.Addr(), false, false)
		a := New(Config{})
		beforeTurn(a, func(*sockdiag.Flow) { time.Sleep(2 * ownersFresh) }) // the slow host
		ctx, cancel := context.WithTimeout(t.Context(), nstest.HangGuard)
		defer cancel()
		report, err := a.HangUp(ctx, hangup.Request{Selector: to(server.Addr())})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, only(t, report), hangup.Closed, "", hangup.Shutdown)
	})
}

// Two actions at once do not take the two last paths of a connection, one each.
func TestPrivilegedPathsAtOnce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		peer := nstest.NewPeer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true}) })
		port := server.Addr().Port()
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		app.Ask("write %d", app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), false, true))
		awaitPaths(t, port, 2)

		a := New(Config{})
		outcomes := make(chan hangup.Outcome, 2)
		hangUp := func(address string) {
			report, err := a.HangUp(t.Context(), hangup.Request{Selector: to(netip.AddrPortFrom(netip.MustParseAddr(address), port)), MPTCP: hangup.Path})
			if err != nil || len(report.Results) != 1 {
				t.Errorf("%+v, %v", report, err)
				outcomes <- hangup.Failed
				return
			}
			outcomes <- report.Results[0].Outcome
		}
		destroy := a.destroy
		var destroying atomic.Int32
		a.destroy = func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) error {
			if destroying.Add(1) == 1 {
				// Both paths are there. The other action finds that, or waits for this one.
				go hangUp(nstest.Peer4Two)
				nstest.Eventually(t, "the other action waits or destroys its path", func() bool {
					return destroying.Load() > 1 || waitsForLock("destroySubflow")
				})
			}
			return destroy(ctx, conn, flow)
		}
		hangUp(nstest.Peer4)
		got := []hangup.Outcome{<-outcomes, <-outcomes}
		slices.Sort(got)
		if want := []hangup.Outcome{hangup.Closed, hangup.Refused}; !slices.Equal(got, want) {
			t.Fatalf("outcomes are %v, want %v", got, want)
		}
		awaitPaths(t, port, 1)
	})
}

// waitsForLock reports whether a goroutine waits for a mutex in a method of action.
func waitsForLock(method string) bool {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return slices.ContainsFunc(strings.Split(string(stacks), "\n\n"), func(stack string) bool {
		state, calls, _ := strings.Cut(stack, "\n")
		return strings.Contains(state, "[sync.Mutex.Lock") && strings.Contains(calls, "(*action)."+method+"(")
	})
}
