package actuator

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// A socket that its application connects elsewhere between the kernel's lookup and its
// destroy loses the new connection. It is reported as failed, also after a shutdown.
func TestPrivilegedReusedDuringDestroy(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		binary := testapp.Build(t)
		for name, request := range map[string]hangup.Request{
			"destroy":        {Method: hangup.Destroy},
			"after shutdown": {Linger: time.Millisecond},
		} {
			t.Run(name, func(t *testing.T) {
				var server *testapp.Server
				peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0"}) })
				destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), server.Addr().Port())
				elsewhere := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", Echo: true})
				app := testapp.Start(t, binary)
				app.Call("ignore")
				fd := app.Connect(destination, false, false)
				peer.Cut("one")
				t.Cleanup(func() { peer.Restore("one") })
				var log strings.Builder
				a := New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				a.destroy = func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) error {
					if got := app.Call("again %d %d", fd, elsewhere.Addr().Port()); got != "again ok" {
						t.Errorf("application: %q", got)
					}
					next := flowTo(t, elsewhere.Addr())
					if next.Cookie != flow.Cookie {
						t.Errorf("the next connection has cookie %d, want %d", next.Cookie, flow.Cookie)
					}
					return conn.Destroy(ctx, &next)
				}
				request.Selector = to(destination)
				r := only(t, mustHangUp(t, a, request))
				if r.Outcome != hangup.Failed || r.Err == nil || !strings.Contains(log.String(), "level=ERROR") {
					t.Errorf("got outcome %s (%s, %v), log %q", r.Outcome, r.Detail, r.Err, log.String())
				}
			})
		}
	})
}
