package actuator

import (
	"context"
	"strings"
	"testing"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nodiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Without mptcp_diag the subflows of an MPTCP connection are refused, whatever the method,
// and the application keeps its connection. A TCP flow of the same action is hung up.
func TestPrivilegedNoMPTCPDiag(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		binary := testapp.Build(t)
		for _, tt := range []struct {
			name    string
			request hangup.Request
		}{
			{name: "auto"},
			{name: "shutdown", request: hangup.Request{Method: hangup.Shutdown}},
			{name: "destroy", request: hangup.Request{Method: hangup.Destroy}},
			{name: "path", request: hangup.Request{MPTCP: hangup.Path}},
			{name: "dry run", request: hangup.Request{DryRun: true}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: true, Echo: true})
				app := testapp.Start(t, binary)
				app.Call("ignore")
				fd := app.Connect(server.Addr(), false, true)
				app.Call("write %d", fd)
				app.Connect(server.Addr(), false, false)

				a := New(Config{})
				a.readTable = func(ctx context.Context, conn *sockdiag.Conn) (*sockdiag.Table, error) {
					return sockdiag.ReadTable(ctx, nodiag.Conn{Conn: conn})
				}
				tt.request.Selector = to(server.Addr())
				report := mustHangUp(t, a, tt.request)
				if len(report.Results) != 2 || report.Count(hangup.Refused) != 1 {
					t.Fatalf("got %+v, want one of two flows refused", report.Results)
				}
				for i := range report.Results {
					r := &report.Results[i]
					if !r.Flow.IsSubflow {
						if r.Outcome == hangup.Refused || r.Outcome == hangup.Failed {
							t.Errorf("TCP flow: %s (%s; %v)", r.Outcome, r.Detail, r.Err)
						}
						continue
					}
					expect(t, r, hangup.Refused, hangup.ReasonPermission, hangup.None)
					if !strings.Contains(r.Detail, "modprobe mptcp_diag") || !strings.Contains(r.Detail, "CONFIG_INET_MPTCP_DIAG") {
						t.Errorf("detail is %q", r.Detail)
					}
				}
				if got := app.Call("recv %d", fd); got != "recv ok 1" {
					t.Errorf("application: %q", got)
				}
			})
		}
	})
}
