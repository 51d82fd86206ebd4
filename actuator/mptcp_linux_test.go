package actuator

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// A selector that names the second path alone still hangs up the connection.
func TestPrivilegedMPTCPSecondPath(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		noLeaks(t)
		tests := []struct {
			name    string
			mode    hangup.MPTCPMode
			address string
		}{
			{name: "connection by its first path", mode: hangup.Connection, address: nstest.Peer4},
			{name: "connection by its second path", mode: hangup.Connection, address: nstest.Peer4Two},
			{name: "first path alone", mode: hangup.Path, address: nstest.Peer4},
			{name: "second path alone", mode: hangup.Path, address: nstest.Peer4Two},
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
				app.Ask("ignore")
				fd := app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), false, true)
				app.Ask("write %d", fd)
				awaitPaths(t, port, 2)
				app.Block("recv", fd, unix.SYS_RECVFROM)

				a := New(Config{})
				addr := netip.AddrPortFrom(netip.MustParseAddr(tt.address), port)
				r := only(t, mustHangUp(t, a, hangup.Request{Selector: to(addr), MPTCP: tt.mode}))
				if tt.mode == hangup.Connection {
					expect(t, r, hangup.Closed, "", hangup.Shutdown)
					if got := app.Hear(); got != "recv ok 0" {
						t.Errorf("application: %q", got)
					}
					if got := <-server.Ends; got != "eof" {
						t.Errorf("peer: %q", got)
					}
					awaitPaths(t, port, 0)
					return
				}
				expect(t, r, hangup.Closed, "", hangup.Destroy)
				awaitPaths(t, port, 1)
				if len(server.Ends) != 0 {
					t.Errorf("peer: %q", <-server.Ends)
				}
				// The path that remains is the last one.
				both := to(addr)
				both.Destinations = append(both.Destinations, netip.MustParsePrefix(nstest.Peer4+"/32"), netip.MustParsePrefix(nstest.Peer4Two+"/32"))
				expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: both, MPTCP: hangup.Path})), hangup.Refused, hangup.ReasonLastSubflow, hangup.None)
				expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: both})), hangup.Closed, "", hangup.Shutdown)
				if got := app.Hear(); got != "recv ok 0" {
					t.Errorf("application: %q", got)
				}
			})
		}
	})
}

// A connection whose last path is gone tells its application nothing: it is found
// by its own address and hung up.
func TestPrivilegedMPTCPPathless(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		noLeaks(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: true})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
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
			t.Errorf("connection still has paths %+v", r.Subflows)
		}
		// With nothing to send a FIN on, the kernel may have closed it already.
		if r.Outcome != hangup.HalfClosed && r.Outcome != hangup.Closed || r.Method != hangup.Shutdown {
			t.Errorf("got outcome %s, method %s (%s; %v)", r.Outcome, r.Method, r.Detail, r.Err)
		}
		if got := app.Hear(); got != "recv ok 0" {
			t.Errorf("application: %q", got)
		}
		app.Ask("close %d", fd)
		if left, err := conn.Lookup(t.Context(), &r.Flow); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after the application has closed it the connection is %+v, %v", left, err)
		}
	})
}

// awaitPaths waits until n TCP flows lead to the port.
func awaitPaths(t *testing.T, port uint16, n int) {
	t.Helper()
	conn, err := sockdiag.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	selector := &sockdiag.Selector{Destinations: sockdiag.Everywhere(), Ports: []uint16{port}}
	query := sockdiag.Query{States: sockdiag.States(sockdiag.Established), Selector: selector, Info: true}
	nstest.Eventually(t, fmt.Sprintf("%d paths to port %d", n, port), func() bool {
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
