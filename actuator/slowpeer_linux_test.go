package actuator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// A slow peer receives all queued data and the FIN, also if other flows or a lack of CPU
// delay the first lookup.
func TestPrivilegedSlowPeer(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		peer := nstest.NewPeer(t)
		binary := testapp.Build(t)
		for _, tt := range []struct {
			name   string
			flows  int
			queue  int // bytes; the peer reads about 50,000 per second
			linger time.Duration
			stall  time.Duration // between the first flow and the next
		}{
			{name: "seen at once", flows: 1, queue: 64 << 10, linger: 8 * time.Second},
			// Linger is many times longer than the peer keeps its window shut: on a busy
			// machine TCP_USER_TIMEOUT would otherwise reset the connection.
			{name: "seen late", flows: 2, queue: 1 << 20, linger: 10 * time.Second, stall: time.Second},
		} {
			t.Run(tt.name, func(t *testing.T) {
				if err := os.WriteFile("/proc/sys/net/ipv4/tcp_wmem", fmt.Appendf(nil, "4096 %d %[1]d", tt.queue), 0o644); err != nil {
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
				begin, hurry, ends := make(chan struct{}), make(chan struct{}), make(chan error, tt.flows)
				destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), listener.Addr().(*net.TCPAddr).AddrPort().Port())
				for range tt.flows {
					go func() {
						conn, err := listener.Accept()
						<-begin
						for buffer := make([]byte, 1<<10); err == nil; {
							_, err = conn.Read(buffer)
							select {
							case <-time.After(20 * time.Millisecond): // the slow peer
							case <-hurry:
							}
						}
						_ = conn.Close()
						ends <- err
					}()
					app := testapp.Start(t, binary)
					app.Call("ignore")
					app.Block("send", app.Connect(destination, false, false), unix.SYS_SENDTO)
				}
				close(begin)

				a, turns := New(Config{}), 0
				beforeTurn(a, func(*sockdiag.Flow) {
					if turns++; turns == 2 {
						time.Sleep(tt.stall)
					}
				})
				for _, r := range mustHangUp(t, a, hangup.Request{Selector: to(destination), Linger: tt.linger}).Results {
					if r.Method != hangup.Shutdown || strings.Contains(r.Detail, "destroy") || r.Outcome == hangup.Lingering && !strings.Contains(r.Detail, "still reading") {
						t.Errorf("outcome %s, method %s: %s", r.Outcome, r.Method, r.Detail)
					}
				}
				close(hurry)
				for range tt.flows {
					if err := <-ends; !errors.Is(err, io.EOF) {
						t.Errorf("peer: %v, want EOF", err)
					}
				}
			})
		}
	})
}

// A flow whose send queue shrank is not destroyed after linger.
func TestSlowPeerIsNotDestroyed(t *testing.T) {
	a := New(Config{})
	a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error {
		t.Error("the flow was destroyed")
		return nil
	}
	x := &action{Actuator: a, Request: hangup.Request{Linger: time.Second}}
	slow := &target{Result: hangup.Result{Outcome: hangup.Lingering}, queuedFirst: 100_000, queuedLast: 60_000}
	if x.destroyUnresponsive(t.Context(), slow) || slow.Outcome != hangup.Lingering || !strings.Contains(slow.Detail, "still reading") {
		t.Errorf("got %+v", slow.Result)
	}
}
