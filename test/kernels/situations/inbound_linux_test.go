package situations

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// dialFrom connects from another host to a listener of this one.
func dialFrom(t *testing.T, host *nstest.Peer, port uint16) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	host.Do(func() {
		conn, err = net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(nstest.Local4), port).String())
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// accepted selects a connection that the application accepted by its client's address. Only
// direction inbound means such connections.
func accepted(closeListener bool, flags ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		host := nstest.NewPeer(t)
		app := start(t)
		listener, address := app.Listen("0.0.0.0")
		client := dialFrom(t, host, address.Port())
		app.Call("accept %d 1", listener)
		fd := listener + 1 // the lowest free one
		if closeListener {
			app.Call("close %d", listener)
		}
		closeAfterEOF(client)
		app.Block("recv", fd, unix.SYS_RECVFROM)
		port := uint16(0) // of the peer, which has an ephemeral one
		if len(flags) > 0 {
			port = address.Port()
		}
		answer := hangUp(t, netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), flags...)
		_, _ = client.Write([]byte("x"))
		return answer + "; " + seen(app.Receive())
	}
}

// unaccepted hangs up a connection that waits for accept(2).
func unaccepted(t *testing.T) string {
	host := nstest.NewPeer(t)
	app := start(t)
	_, address := app.Listen("0.0.0.0")
	client := dialFrom(t, host, address.Port())
	await(t, client.LocalAddr().(*net.TCPAddr).AddrPort().Port(), unix.BPF_TCP_ESTABLISHED)
	answer := hangUp(t, netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), address.Port()), "--direction=inbound")
	_, err := client.Read(make([]byte, 1))
	switch {
	case errors.Is(err, io.EOF):
		return answer + "; peer: EOF"
	case errors.Is(err, unix.ECONNRESET):
		return answer + "; peer: ECONNRESET"
	default:
		t.Fatal(err)
		return ""
	}
}
