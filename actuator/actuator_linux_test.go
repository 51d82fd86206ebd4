package actuator

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// Every limit of a request holds. The connections are tcphup's own: flows within the
// limits are refused for that.
func TestPrivilegedRequestLimits(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		for range 2 {
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		server := listener.Addr().(*net.TCPAddr).AddrPort()
		address := netip.PrefixFrom(server.Addr(), server.Addr().BitLen())
		never := func(port uint16) []sockdiag.Selector {
			return []sockdiag.Selector{{Destinations: []netip.Prefix{address}, Ports: []uint16{port}}}
		}
		self, denied, budget := map[hangup.Reason]int{hangup.ReasonSelf: 2}, map[hangup.Reason]int{hangup.ReasonDenied: 2}, map[hangup.Reason]int{hangup.ReasonBudget: 2}
		for _, tt := range []struct {
			name   string
			change func(*hangup.Request)
			want   map[hangup.Reason]int // refusals
		}{
			{"no limit", func(*hangup.Request) {}, self},
			{"other port", func(r *hangup.Request) { r.Selector.Ports[0]++ }, map[hangup.Reason]int{}},
			{"never", func(r *hangup.Request) { r.Never = []sockdiag.Selector{{Destinations: []netip.Prefix{address}}} }, denied},
			{"never at this port", func(r *hangup.Request) { r.Never = never(server.Port()) }, denied},
			{"never at another port", func(r *hangup.Request) { r.Never = never(1) }, self},
			{"flows", func(r *hangup.Request) { r.MaxFlows = 1 }, budget},
			{"fraction", func(r *hangup.Request) { r.MaxFraction = 0.5 }, budget},
			{"established before", func(r *hangup.Request) { r.EstablishedBefore = time.Now() }, map[hangup.Reason]int{}},
		} {
			r := hangup.Request{Selector: sockdiag.Selector{Destinations: []netip.Prefix{address}, Ports: []uint16{server.Port()}}}
			tt.change(&r)
			report, err := New(Config{}).HangUp(t.Context(), r)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if diff := cmp.Diff(tt.want, report.Refusals()); diff != "" {
				t.Errorf("%s: refusals (-want +got):\n%s", tt.name, diff)
			}
		}
	})
}
