package collector

import (
	"net"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// A bound socket that is connected to another peer has a flow of unknown age, until the
// next scrape.
func TestPrivilegedFirstSeenBoundSocket(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		c, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(socket)
		if err := unix.Bind(socket, &unix.SockaddrInet4{Port: 45001, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		open := func() sockdiag.Flow {
			t.Helper()
			listener, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = listener.Close() })
			to := listener.Addr().(*net.TCPAddr)
			if err := unix.Connect(socket, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
				t.Fatal(err)
			}
			conn, err := sockdiag.Dial()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for f, err := range conn.Flows(t.Context(), sockdiag.Query{States: sockdiag.Open}) {
				if err != nil {
					t.Fatal(err)
				}
				if f.Remote == to.AddrPort() {
					return f
				}
			}
			t.Fatal("no flow")
			return sockdiag.Flow{}
		}
		first := open()
		scrape(t, c)
		if _, known := c.FirstSeen(&first); !known {
			t.Error("the first connection is unknown")
		}
		// connect(2) with AF_UNSPEC dissolves the association.
		address := make([]byte, unix.SizeofSockaddrInet4)
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(socket), uintptr(unsafe.Pointer(&address[0])), uintptr(len(address))); errno != 0 {
			t.Fatal(errno)
		}
		second := open()
		if second.Cookie != first.Cookie || second.Local != first.Local {
			t.Fatalf("got %+v after %+v, want the same socket and local address", second, first)
		}
		if seen, known := c.FirstSeen(&second); known {
			t.Errorf("the second connection was first seen %v", seen)
		}
		scrape(t, c)
		if _, known := c.FirstSeen(&second); !known {
			t.Error("the second connection is unknown after a scrape")
		}
	})
}
