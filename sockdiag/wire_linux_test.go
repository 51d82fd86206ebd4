package sockdiag

import (
	"io"
	"net"
	"net/netip"
	"testing"

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
