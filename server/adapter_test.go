package server

import (
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// Every limit of an alert's action reaches the actuator. The connections are our
// own, so that what no limit refuses is refused for that.
func TestPrivilegedAdapter(t *testing.T) {
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
		never := func(port uint16) []alerts.Endpoint { return []alerts.Endpoint{{Prefix: address, Port: port}} }
		for _, tt := range []struct {
			name   string
			change func(*alerts.Action)
			want   map[string]int // refusals; nil: an error
		}{
			{"no limit", func(*alerts.Action) {}, map[string]int{"self": 2}},
			{"other port", func(a *alerts.Action) { a.Selector.Ports[0]++ }, map[string]int{}},
			{"never", func(a *alerts.Action) { a.Never = never(0) }, map[string]int{"denied": 2}},
			{"never at this port", func(a *alerts.Action) { a.Never = never(server.Port()) }, map[string]int{"denied": 2}},
			{"never at another port", func(a *alerts.Action) { a.Never = never(1) }, map[string]int{"self": 2}},
			{"flows", func(a *alerts.Action) { a.MaxFlows = 1 }, map[string]int{"budget": 2}},
			{"fraction", func(a *alerts.Action) { a.MaxFraction = 0.5 }, map[string]int{"budget": 2}},
			{"established before", func(a *alerts.Action) { a.EstablishedBefore = time.Now() }, map[string]int{}},
			{"method and mptcp", func(a *alerts.Action) { a.Method, a.MPTCP = "shutdown", "path" }, nil},
			{"rate", func(a *alerts.Action) { a.Rate = math.NaN() }, nil},
			{"linger", func(a *alerts.Action) { a.Linger = -1 }, nil},
			{"quiet", func(a *alerts.Action) { a.DrainQuiet = -1 }, nil},
			{"deadline", func(a *alerts.Action) { a.DrainDeadline = -1 }, nil},
		} {
			a := alerts.Action{Selector: sockdiag.Selector{Destinations: []netip.Prefix{address}, Ports: []uint16{server.Port()}}}
			tt.change(&a)
			result, err := hangUpper{actuator: actuator.New(actuator.Config{})}.HangUp(t.Context(), a)
			if (err != nil) != (tt.want == nil) {
				t.Errorf("%s: error %v", tt.name, err)
			}
			if diff := cmp.Diff(tt.want, result.Refusals); diff != "" {
				t.Errorf("%s: refusals (-want +got):\n%s", tt.name, diff)
			}
		}
	})
}
