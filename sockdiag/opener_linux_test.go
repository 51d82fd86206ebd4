package sockdiag

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// byLocal returns the open flows by local endpoint.
func byLocal(t *testing.T, c *Conn) map[netip.AddrPort]Flow {
	t.Helper()
	all := make(map[netip.AddrPort]Flow)
	for _, f := range collect(t, c, Query{States: Open, Info: true}) {
		all[f.Local] = f
	}
	return all
}

// The opener is derived correctly for any traffic on a flow.
func TestPrivilegedOpener(t *testing.T) {
	nstest.Run(t, func(t *testing.T) { nstest.TCPAndMPTCP(t, checkOpener) })
}

func checkOpener(t *testing.T, mptcp bool) {
	const large = 1 << 20
	send := func(t *testing.T, from, to net.Conn, n int) {
		t.Helper()
		go func() { _, _ = from.Write(make([]byte, n)) }()
		if _, err := io.ReadFull(to, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	ends := map[string][2]string{"ipv4": {"127.0.0.1:0", "127.0.0.1"}, "ipv6": {"[::1]:0", "[::1]"}, "mapped": {"[::]:0", "127.0.0.1"}}
	type connection struct{ client, server *net.TCPConn }
	connections := make(map[string]connection)
	for name, addresses := range ends {
		open := func(traffic string) (client, server *net.TCPConn) {
			client, server = pair(t, addresses[0], addresses[1], mptcp)
			connections[name+", "+traffic] = connection{client, server}
			return client, server
		}
		open("no data")
		client, server := open("a byte from the client")
		send(t, client, server, 1)
		client, server = open("a byte from the server")
		send(t, server, client, 1)
		client, server = open("much both ways")
		send(t, client, server, large)
		send(t, server, client, large)
		client, server = open("unread")
		_, _ = client.Write(make([]byte, 100))
		_, _ = server.Write(make([]byte, 100))
		client, server = open("closed by the server")
		send(t, server, client, 10)
		_ = server.CloseWrite()
	}
	c := mustDial(t)
	var flows map[netip.AddrPort]Flow
	nstest.Eventually(t, "all data is acknowledged", func() bool {
		flows = byLocal(t, c)
		for _, f := range flows {
			if f.SendQueue > 0 && f.State != FinWait1 {
				return false
			}
		}
		return true
	})
	for name, b := range connections {
		if f := flows[localOf(b.client)]; f.Opener != OpenedHere {
			t.Errorf("%s: client: %+v, want opener %d", name, f, OpenedHere)
		}
		want := OpenedByPeer
		f := flows[localOf(b.server)]
		if f.State != Established {
			want = OpenerUnknown // its FIN counts like a SYN
		}
		if f.Opener != want {
			t.Errorf("%s: server: %+v, want opener %d", name, f, want)
		}
	}
}

// Conn.Opener is right on flows under load and on flows that were shut down.
func TestPrivilegedOpenerLookup(t *testing.T) {
	nstest.Run(t, func(t *testing.T) { nstest.TCPAndMPTCP(t, checkOpenerLookup) })
}

func checkOpenerLookup(t *testing.T, mptcp bool) {
	copyAll := func(to io.Writer, from io.Reader) { _, _ = io.Copy(to, from) }
	forever := func(to net.Conn) {
		for b := make([]byte, 64<<10); ; {
			if _, err := to.Write(b); err != nil {
				return
			}
		}
	}
	fill := func(to net.Conn) {
		_ = to.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		forever(to)
	}
	for _, tt := range []struct {
		name           string
		begin          func(client, server *net.TCPConn)
		client, server State // of TCP flows; a subflow gets its FIN later
		unsent         bool  // the server has unsent data, so its result may be OpenerUnknown
	}{
		{"idle", func(_, _ *net.TCPConn) {}, Established, Established, false},
		{"bulk upload", func(client, server *net.TCPConn) { go forever(client); go copyAll(io.Discard, server) }, Established, Established, false},
		{"bulk download", func(client, server *net.TCPConn) { go forever(server); go copyAll(io.Discard, client) }, Established, Established, true},
		{"request and response", func(client, server *net.TCPConn) {
			go copyAll(server, server)
			go copyAll(client, client)
			_, _ = client.Write([]byte("request"))
		}, Established, Established, false},
		{"zero window", func(client, _ *net.TCPConn) { fill(client) }, Established, Established, false},
		{"zero window, FIN queued", func(client, _ *net.TCPConn) { fill(client); _ = client.CloseWrite() }, FinWait1, Established, false},
		{"FIN acknowledged", func(client, _ *net.TCPConn) { _ = client.CloseWrite() }, FinWait2, CloseWait, false},
		{"FIN acknowledged, then zero window", func(client, server *net.TCPConn) { _ = client.CloseWrite(); fill(server) }, FinWait2, CloseWait, true},
		{"FIN of the peer acknowledged, own FIN queued", func(client, server *net.TCPConn) {
			_ = client.CloseWrite()
			fill(server)
			_ = server.CloseWrite()
		}, FinWait2, LastAck, true},
		{"FIN from the server", func(_, server *net.TCPConn) { _ = server.CloseWrite() }, CloseWait, FinWait2, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, server := pair(t, "127.0.0.1:0", "127.0.0.1", mptcp)
			tt.begin(client, server)
			c := mustDial(t)
			for _, side := range []struct {
				conn  *net.TCPConn
				state State
				want  Opener
			}{{client, tt.client, OpenedHere}, {server, tt.server, OpenedByPeer}} {
				var flow Flow
				nstest.Eventually(t, "the flow is "+side.state.String(), func() bool {
					flow = byLocal(t, c)[localOf(side.conn)]
					return flow.State == side.state || mptcp && flow.State != 0
				})
				for range 100 {
					got, err := c.Opener(t.Context(), &flow)
					if err != nil {
						t.Fatal(err)
					}
					if got != side.want && (got != OpenerUnknown || !tt.unsent || side.want != OpenedByPeer) {
						t.Fatalf("%s %s: got opener %d, want %d", side.conn.LocalAddr(), flow.State, got, side.want)
					}
				}
			}
		})
	}
}
