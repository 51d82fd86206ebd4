package actuator

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// ends returns both ends of a connection from a client address to a service address.
func ends(t *testing.T, client, service string, mptcp bool) (listener net.Listener, from, accepted *net.TCPConn) {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(mptcp)
	listener, err := config.Listen(t.Context(), "tcp", service)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	local, err := net.ResolveTCPAddr("tcp", client)
	if err != nil {
		t.Fatal(err)
	}
	dialer := net.Dialer{LocalAddr: local}
	dialer.SetMultipathTCP(mptcp)
	dialed, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialed.Close() })
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return listener, dialed.(*net.TCPConn), conn.(*net.TCPConn)
}

// writeUntilFull writes until the peer's receive buffer and the send buffer are full, and
// returns the number of bytes.
func writeUntilFull(t *testing.T, to net.Conn) (written int) {
	t.Helper()
	b := make([]byte, 64<<10)
	for {
		_ = to.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := to.Write(b)
		written += n
		if err != nil {
			return written
		}
	}
}

// An accepted connection on a port that may be ephemeral is not hung up as outbound after
// its listener was closed, whatever its state. tcphup holds both ends here, so selected
// flows would be refused as its own, and orphans destroyed.
func TestPrivilegedAcceptedWithoutListener(t *testing.T) {
	nstest.Run(t, func(t *testing.T) { nstest.TCPAndMPTCP(t, checkAcceptedWithoutListener) })
}

func checkAcceptedWithoutListener(t *testing.T, mptcp bool) {
	const client, service = "127.0.0.3:0", "127.0.0.1:45000"
	for _, tt := range []struct {
		name  string
		begin func(t *testing.T, accepted *net.TCPConn) (sent int)
	}{
		{"idle", func(*testing.T, *net.TCPConn) int { return 0 }},
		{"unsent data", func(t *testing.T, accepted *net.TCPConn) int { return writeUntilFull(t, accepted) }},
		{"closed with unsent data", func(t *testing.T, accepted *net.TCPConn) int {
			n := writeUntilFull(t, accepted)
			_ = accepted.Close()
			return n
		}},
		{"a listener on another port", func(t *testing.T, _ *net.TCPConn) int {
			testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:15001"})
			return 0
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			listener, from, accepted := ends(t, client, service, mptcp)
			_ = listener.Close()
			sent := tt.begin(t, accepted)
			selector := sockdiag.Selector{Destinations: []netip.Prefix{netip.MustParsePrefix("127.0.0.3/32")}}
			report := mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, Linger: time.Second})
			for _, r := range report.Results {
				if r.Reason != hangup.ReasonDirection {
					t.Errorf("%s flow: outcome %s, reason %q (%s)", r.Flow.State, r.Outcome, r.Reason, r.Detail)
				}
			}
			if n := len(report.Results) + report.LeftAlone; n != 1 {
				t.Errorf("%d flows refused or left alone, want 1", n)
			}
			_ = from.SetReadDeadline(time.Now().Add(time.Minute))
			if n, err := io.ReadFull(from, make([]byte, sent)); err != nil {
				t.Errorf("client received %d of %d bytes: %v", n, sent, err)
			}
			_ = accepted.Close()
			_ = from.Close()
			nstest.Eventually(t, "both ends are closed", func() bool { return openSockets(t) == 0 })
		})
	}
}

// Flows under load are recognised as outbound, also from a port that is not ephemeral to
// one that is. As tcphup holds them, they are refused as its own after that check.
func TestPrivilegedOutboundUnderLoad(t *testing.T) {
	nstest.Run(t, func(t *testing.T) { nstest.TCPAndMPTCP(t, checkOutboundUnderLoad) })
}

func checkOutboundUnderLoad(t *testing.T, mptcp bool) {
	const each = 25
	client := "127.0.0.3" // an own one: fixed ports of an earlier connection may be in TIME_WAIT
	if mptcp {
		client = "127.0.0.4"
	}
	forever := func(to net.Conn) {
		for b := make([]byte, 64<<10); ; {
			if _, err := to.Write(b); err != nil {
				return
			}
		}
	}
	copyAll := func(to io.Writer, from io.Reader) { _, _ = io.Copy(to, from) }
	type connection struct{ from, accepted *net.TCPConn }
	var connections []connection // opened before the load begins
	loads := []func(from, accepted *net.TCPConn){
		func(from, accepted *net.TCPConn) { go forever(from); go copyAll(io.Discard, accepted) },
		func(from, accepted *net.TCPConn) { go forever(accepted); go copyAll(io.Discard, from) },
		func(from, _ *net.TCPConn) { go forever(from) },
		func(from, accepted *net.TCPConn) {
			go copyAll(accepted, accepted)
			go copyAll(from, from)
			_, _ = from.Write([]byte("request"))
		},
	}
	for i := range each * len(loads) {
		listener, from, accepted := ends(t, fmt.Sprintf("%s:%d", client, 1000+i), fmt.Sprintf("127.0.0.1:%d", 45000+i), mptcp)
		_ = listener.Close()
		connections = append(connections, connection{from, accepted})
	}
	for i, c := range connections {
		loads[i%len(loads)](c.from, c.accepted)
	}
	selector := sockdiag.Selector{Destinations: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	report := mustHangUp(t, New(Config{}), hangup.Request{Selector: selector})
	if n := report.Refusals()[hangup.ReasonSelf]; n != 4*each || len(report.Results) != n {
		t.Errorf("%d flows are outbound, want %d (%v, %d left alone)", n, 4*each, report.Refusals(), report.LeftAlone)
	}
}

// If neither counters nor ports show the direction of a connection, it is refused.
func TestPrivilegedUnknownDirection(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		for _, tt := range []struct {
			client, service int
			reason          hangup.Reason
		}{
			{client: 46000, service: 443, reason: hangup.ReasonSelf},
			{client: 46001, service: 45001, reason: hangup.ReasonDirection},
			{client: 1002, service: 444, reason: hangup.ReasonDirection},
			{client: 1003, service: 45003, reason: hangup.ReasonDirection},
		} {
			t.Run(fmt.Sprintf("%d to %d", tt.client, tt.service), func(t *testing.T) {
				listener, _, _ := ends(t, fmt.Sprintf("127.0.0.3:%d", tt.client), fmt.Sprintf("127.0.0.1:%d", tt.service), true)
				_ = listener.Close()
				destination := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(tt.service))
				conn, err := sockdiag.Dial()
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				initial := flowTo(t, destination)
				if err := conn.Destroy(t.Context(), &initial); err != nil {
					t.Fatal(err)
				}
				report := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(destination), Method: hangup.Destroy})
				expect(t, only(t, report), hangup.Refused, tt.reason, hangup.None)
			})
		}
	})
}
