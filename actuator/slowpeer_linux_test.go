package actuator

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/internal/nstest"
	"tcphup/internal/testapp"
	"tcphup/sockdiag"
)

// A peer that is slow and alive gets all that was queued, and the FIN behind it,
// however long that takes.
func TestPrivilegedSlowPeer(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		// What is queued is to be gone in some seconds.
		if err := os.WriteFile("/proc/sys/net/ipv4/tcp_wmem", []byte("4096 65536 65536"), 0o644); err != nil {
			t.Fatal(err)
		}
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
		begin, end := make(chan struct{}), make(chan error, 1)
		go func() {
			conn, err := listener.Accept()
			<-begin
			for buffer := make([]byte, 1<<10); err == nil; {
				_, err = conn.Read(buffer)
				time.Sleep(20 * time.Millisecond) // this is how slow it is
			}
			_ = conn.Close()
			end <- err
		}()
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), listener.Addr().(*net.TCPAddr).AddrPort().Port())
		fd := app.Connect(destination, false, false)
		app.Block("send", fd, unix.SYS_SENDTO)
		close(begin)

		r := only(t, mustHangUp(t, New(Config{}), Request{Selector: to(destination), Linger: 8 * time.Second}))
		if r.Method != Shutdown || strings.Contains(r.Detail, "destroy") || r.Outcome == Lingering && !strings.Contains(r.Detail, "still taking") {
			t.Errorf("outcome %s, method %s: %s", r.Outcome, r.Method, r.Detail)
		}
		if err := <-end; !errors.Is(err, io.EOF) {
			t.Errorf("the peer reads %v, want end of file", err)
		}
	})
}

// When linger is over, what the peer has taken in the last part of it decides.
func TestFinishLeavesSlowPeer(t *testing.T) {
	a := New(Config{})
	a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error {
		t.Error("the flow was destroyed")
		return nil
	}
	x := &action{Actuator: a, Request: Request{Linger: time.Second}}
	slow := &target{Result: Result{Outcome: Lingering}, queuedFirst: 100_000, queuedLast: 60_000}
	if x.finish(t.Context(), slow) || slow.Outcome != Lingering || !strings.Contains(slow.Detail, "still taking") {
		t.Errorf("got %+v", slow.Result)
	}
}
