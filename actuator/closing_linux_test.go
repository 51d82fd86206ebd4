package actuator

import (
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Connections that were hung up and wait for the FIN of their peer are not selected again, but
// counted, if their address, port and direction match.
func TestPrivilegedClosing(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.TCPAndMPTCP(t, func(t *testing.T, mptcp bool) {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: mptcp, KeepOpen: true})
			app := testapp.Start(t, testapp.Build(t))
			app.Call("ignore")
			app.Connect(server.Addr(), false, mptcp)
			app.Connect(server.Addr(), false, mptcp)
			a := New(Config{})
			request := hangup.Request{Selector: to(server.Addr()), Linger: 50 * time.Millisecond}
			if report := mustHangUp(t, a, request); report.Count(hangup.HalfClosed) != 2 || report.Closing != 0 {
				t.Fatalf("first action: %+v", report)
			}
			if report := mustHangUp(t, a, request); len(report.Results) != 0 || report.Closing != 2 {
				t.Errorf("second action: %d results, %d closing; want 0, 2", len(report.Results), report.Closing)
			}
			request.Selector.Direction = sockdiag.Inbound
			if report := mustHangUp(t, a, request); report.Closing != 0 {
				t.Errorf("other direction: %d closing", report.Closing)
			}
		})
	})
}
