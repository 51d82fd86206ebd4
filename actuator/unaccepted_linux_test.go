package actuator

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// An unaccepted connection has no inode, like an orphan, but is not treated as one. The
// action does not wait for its end, and a refused connection can still be accepted.
func TestPrivilegedUnaccepted(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			name    string
			mptcp   bool
			method  hangup.Method
			outcome hangup.Outcome
			reason  hangup.Reason
			took    hangup.Method
		}{
			{name: "tcp", outcome: hangup.Closed, took: hangup.Destroy},
			{name: "tcp shutdown", method: hangup.Shutdown, outcome: hangup.Refused, reason: hangup.ReasonPermission, took: hangup.None},
			{name: "mptcp", mptcp: true, outcome: hangup.Refused, reason: hangup.ReasonLastSubflow, took: hangup.None},
			{name: "mptcp destroy", mptcp: true, method: hangup.Destroy, outcome: hangup.Refused, reason: hangup.ReasonLastSubflow, took: hangup.None},
			{name: "mptcp shutdown", mptcp: true, method: hangup.Shutdown, outcome: hangup.Refused, reason: hangup.ReasonPermission, took: hangup.None},
		} {
			t.Run(tt.name, func(t *testing.T) {
				if tt.mptcp {
					nstest.NeedMPTCP(t)
				}
				listener, client := dialUnaccepted(t, tt.mptcp)
				selector := to(listener.Addr().(*net.TCPAddr).AddrPort())
				selector.Direction = sockdiag.Inbound
				// Waiting for linger would exceed this timeout.
				ctx, cancel := context.WithTimeout(t.Context(), nstest.HangGuard)
				defer cancel()
				report, err := New(Config{}).HangUp(ctx, hangup.Request{Selector: selector, Method: tt.method, Linger: time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				expect(t, only(t, report), tt.outcome, tt.reason, tt.took)
				if err := ctx.Err(); err != nil {
					t.Errorf("the action waited: %v", err)
				}
				if tt.outcome == hangup.Closed {
					return
				}
				server, err := listener.Accept()
				if err != nil {
					t.Fatal(err)
				}
				defer server.Close()
				if _, err := client.Write([]byte("x")); err != nil {
					t.Errorf("client: %v", err)
				}
				if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
					t.Errorf("the accepting side: %v", err)
				}
			})
		}

		t.Run("accepted before its turn", func(t *testing.T) {
			binary := testapp.Build(t)
			app := testapp.Start(t, binary)
			app.Call("ignore")
			fd, address := app.Listen("127.0.0.1")
			client, err := net.Dial("tcp", address.String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			selector := to(address)
			selector.Direction = sockdiag.Inbound
			a := New(Config{})
			accept := sync.OnceFunc(func() { app.Call("accept %d 1", fd) })
			beforeTurn(a, func(*sockdiag.Flow) { accept() })
			r := only(t, mustHangUp(t, a, hangup.Request{Selector: selector, Linger: 100 * time.Millisecond}))
			if r.Method != hangup.Shutdown || r.PID != app.PID() {
				t.Errorf("got %+v", r)
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("client: %v", err)
			}
		})
	})
}

func dialUnaccepted(t *testing.T, mptcp bool) (net.Listener, net.Conn) {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(mptcp)
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var dialer net.Dialer
	dialer.SetMultipathTCP(mptcp)
	client, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	return listener, client
}
