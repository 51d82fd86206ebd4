package actuator

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// A selector that matches one subflow hangs up the connection, or the subflow in Path
// mode.
func TestPrivilegedMPTCPSecondSubflow(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		noLeaks(t)
		tests := []struct {
			name    string
			mode    hangup.MPTCPMode
			address string
		}{
			{name: "connection by its first subflow", mode: hangup.Connection, address: nstest.Peer4},
			{name: "connection by its second subflow", mode: hangup.Connection, address: nstest.Peer4Two},
			{name: "first subflow alone", mode: hangup.Path, address: nstest.Peer4},
			{name: "second subflow alone", mode: hangup.Path, address: nstest.Peer4Two},
		}
		peer := nstest.NewPeer(t)
		binary := testapp.Build(t)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				var server *testapp.Server
				peer.Do(func() {
					server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true})
				})
				port := server.Addr().Port()
				app := testapp.Start(t, binary)
				app.Call("ignore")
				fd := app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), false, true)
				app.Call("write %d", fd)
				awaitSubflows(t, port, 2)
				app.Block("recv", fd, unix.SYS_RECVFROM)

				a := New(Config{})
				addr := netip.AddrPortFrom(netip.MustParseAddr(tt.address), port)
				if tt.mode == hangup.Connection {
					// A connection is excluded by any of its subflows, also by one that joins late.
					excluding := to(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port))
					excluding.Except = []netip.Prefix{netip.MustParsePrefix(nstest.Peer4Two + "/32")}
					if report := mustHangUp(t, a, hangup.Request{Selector: excluding}); len(report.Results) != 0 {
						t.Errorf("excluded by its second subflow: %+v", report.Results)
					}
				}
				r := only(t, mustHangUp(t, a, hangup.Request{Selector: to(addr), MPTCP: tt.mode}))
				if tt.mode == hangup.Connection {
					expect(t, r, hangup.Closed, "", hangup.Shutdown)
					if got := app.Receive(); got != "recv ok 0" {
						t.Errorf("application: %q", got)
					}
					if got := <-server.Ends; got != "eof" {
						t.Errorf("peer: %q", got)
					}
					awaitSubflows(t, port, 0)
					return
				}
				expect(t, r, hangup.Closed, "", hangup.Destroy)
				awaitSubflows(t, port, 1)
				if len(server.Ends) != 0 {
					t.Errorf("peer: %q", <-server.Ends)
				}
				// The last subflow is refused.
				both := to(addr)
				both.Destinations = append(both.Destinations, netip.MustParsePrefix(nstest.Peer4+"/32"), netip.MustParsePrefix(nstest.Peer4Two+"/32"))
				expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: both, MPTCP: hangup.Path})), hangup.Refused, hangup.ReasonLastSubflow, hangup.None)
				expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: both})), hangup.Closed, "", hangup.Shutdown)
				if got := app.Receive(); got != "recv ok 0" {
					t.Errorf("application: %q", got)
				}
			})
		}
	})
}

// Of two matching subflows, the second is refused as the last one.
func TestPrivilegedMPTCPBothSubflows(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		peer := nstest.NewPeer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true}) })
		port := server.Addr().Port()
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		fd := app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), false, true)
		app.Call("write %d", fd)
		awaitSubflows(t, port, 2)
		selector := sockdiag.Selector{Destinations: sockdiag.Everywhere(), Ports: sockdiag.Ports(port)}
		report := mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, MPTCP: hangup.Path})
		if len(report.Results) != 2 {
			t.Fatalf("got %+v, want two subflows", report.Results)
		}
		expect(t, &report.Results[0], hangup.Closed, "", hangup.Destroy)
		expect(t, &report.Results[1], hangup.Refused, hangup.ReasonLastSubflow, hangup.None)
		awaitSubflows(t, port, 1)
		if got := app.Call("write %d", fd); got != "write ok 1" {
			t.Errorf("application: %q", got)
		}
	})
}

// Two concurrent actions do not destroy the last two subflows of a connection.
func TestPrivilegedConcurrentSubflows(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		peer := nstest.NewPeer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true}) })
		port := server.Addr().Port()
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		app.Call("write %d", app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), false, true))
		awaitSubflows(t, port, 2)

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
				// Both subflows are established: only the mutex stops the other action.
				go hangUp(nstest.Peer4Two)
				nstest.Eventually(t, "the other action waits or destroys its subflow", func() bool {
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
		awaitSubflows(t, port, 1)
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

// awaitSubflows waits until n established TCP flows have the remote port.
func awaitSubflows(t *testing.T, port uint16, n int) {
	t.Helper()
	conn, err := sockdiag.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	selector := &sockdiag.Selector{Destinations: sockdiag.Everywhere(), Ports: sockdiag.Ports(port)}
	query := sockdiag.Query{States: sockdiag.States(sockdiag.Established), Selector: selector, Info: true}
	nstest.Eventually(t, fmt.Sprintf("%d subflows to port %d", n, port), func() bool {
		found := 0
		for f, err := range conn.Flows(t.Context(), query) {
			if err != nil {
				t.Fatal(err)
			}
			if f.Remote.Port() == port && (n < 2 || f.Subflow.Flags&sockdiag.SubflowFullyEstablished != 0) {
				found++
			}
		}
		return found == n
	})
}
