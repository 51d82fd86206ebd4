package actuator

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/internal/nstest"
	"tcphup/internal/testapp"
)

// A peer that is slow and alive gets all that was queued, and the FIN behind it,
// however long that takes.
func TestPrivilegedSlowPeer(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		var listener net.Listener
		peer.Do(func() {
			config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
				return errors.Join(c.Control(func(fd uintptr) {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 32<<10)
				}), err)
			}}
			var err error
			if listener, err = config.Listen(context.Background(), "tcp", "0.0.0.0:0"); err != nil {
				t.Error(err)
			}
		})
		defer listener.Close()
		end := make(chan error, 1)
		go func() {
			conn, err := listener.Accept()
			for buffer := make([]byte, 1<<10); err == nil; {
				_, err = conn.Read(buffer)
				time.Sleep(25 * time.Millisecond) // this is how slow it is
			}
			end <- err
		}()
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), listener.Addr().(*net.TCPAddr).AddrPort().Port())
		fd := app.Connect(destination, false, false)
		app.Tell("send %d", fd)
		nstest.Eventually(t, "the queue is full", func() bool {
			flows := sockets(t, destination.Port())
			return len(flows) == 1 && flows[0].SendQueue > 100<<10
		})

		r := only(t, mustHangUp(t, New(Config{}), Request{Selector: to(destination)}))
		if r.Method != Shutdown || strings.Contains(r.Detail, "destroy") || r.Outcome == Lingering && !strings.Contains(r.Detail, "still taking") {
			t.Errorf("outcome %s, method %s: %s", r.Outcome, r.Method, r.Detail)
		}
		if err := <-end; !errors.Is(err, io.EOF) {
			t.Errorf("the peer reads %v, want end of file", err)
		}
	})
}
