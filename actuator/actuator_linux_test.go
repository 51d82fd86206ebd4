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

// Every limit of a request applies. The connections belong to the test process, so flows
// within the limits are refused with ReasonSelf.
func TestPrivilegedRequestLimits(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		var one netip.AddrPort // local address of a flow
		for range 2 {
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			one = conn.LocalAddr().(*net.TCPAddr).AddrPort()
		}
		server := listener.Addr().(*net.TCPAddr).AddrPort()
		address := netip.PrefixFrom(server.Addr(), server.Addr().BitLen())
		never := func(port uint16) []sockdiag.Selector {
			return []sockdiag.Selector{{Destinations: []netip.Prefix{address}, Ports: sockdiag.Ports(port)}}
		}
		self, denied, budget := map[hangup.Reason]int{hangup.ReasonSelf: 2}, map[hangup.Reason]int{hangup.ReasonDenied: 2}, map[hangup.Reason]int{hangup.ReasonBudget: 2}
		tooYoung := map[hangup.Reason]int{hangup.ReasonTooYoung: 2}
		for _, tt := range []struct {
			name   string
			change func(*hangup.Request)
			want   map[hangup.Reason]int // refusals
		}{
			{"no limit", func(*hangup.Request) {}, self},
			{"other port", func(r *hangup.Request) { r.Selector.Ports = sockdiag.Ports(r.Selector.Ports[0].First + 1) }, map[hangup.Reason]int{}},
			{"never", func(r *hangup.Request) { r.Never = []sockdiag.Selector{{Destinations: []netip.Prefix{address}}} }, denied},
			{"never at this port", func(r *hangup.Request) { r.Never = never(server.Port()) }, denied},
			{"never at another port", func(r *hangup.Request) { r.Never = never(1) }, self},
			{"shared", func(r *hangup.Request) { r.Shared = func(*sockdiag.Flow) bool { return true } }, map[hangup.Reason]int{hangup.ReasonShared: 2}},
			{"shared, not in the budget", func(r *hangup.Request) {
				r.MaxFlows, r.Shared = 1, func(f *sockdiag.Flow) bool { return f.Local == one }
			}, map[hangup.Reason]int{hangup.ReasonShared: 1, hangup.ReasonSelf: 1}},
			{"of another service", func(r *hangup.Request) { r.Other = func(f *sockdiag.Flow) bool { return f.Local == one } }, map[hangup.Reason]int{hangup.ReasonSelf: 1}},
			{"shared since the selection", func(r *hangup.Request) {
				calls := 0
				r.Shared = func(*sockdiag.Flow) bool { calls++; return calls > 2 }
			}, map[hangup.Reason]int{hangup.ReasonShared: 2}},
			{"flows", func(r *hangup.Request) { r.MaxFlows = 1 }, budget},
			{"fraction", func(r *hangup.Request) { r.MaxFraction = 0.5 }, budget},
			{"idle", func(r *hangup.Request) { r.Selector.MinIdle = time.Hour }, map[hangup.Reason]int{}},
			{"established before", func(r *hangup.Request) { r.EstablishedBefore = time.Now() }, tooYoung},
		} {
			r := hangup.Request{Selector: sockdiag.Selector{Destinations: []netip.Prefix{address}, Ports: sockdiag.Ports(server.Port())}}
			tt.change(&r)
			report, err := New(Config{}).HangUp(t.Context(), r)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if diff := cmp.Diff(tt.want, report.Refusals()); diff != "" {
				t.Errorf("%s: refusals (-want +got):\n%s", tt.name, diff)
			}
			if of := map[string]int{"of another service": 1}[tt.name]; report.Others != of {
				t.Errorf("%s: %d flows of another service, want %d", tt.name, report.Others, of)
			}
			var spared map[hangup.Reason]int
			if tt.name == "idle" {
				spared = map[hangup.Reason]int{hangup.ReasonEvidence: 2}
			}
			for _, reason := range hangup.SparedReasons() {
				if n := tt.want[reason]; n > 0 {
					spared = map[hangup.Reason]int{reason: n}
				}
			}
			if diff := cmp.Diff(spared, report.Spared()); diff != "" {
				t.Errorf("%s: spared (-want +got):\n%s", tt.name, diff)
			}
		}
	})
}

// EstablishedBefore compares ages correctly after a change of the wall clock.
func TestEstablishedBeforeClockChange(t *testing.T) {
	const hour = time.Hour
	now := time.Now() // after the correction of the clock
	alert := now.Add(-10 * time.Minute).Round(0)
	for _, tt := range []struct {
		name string
		set  time.Duration // clock error at FirstSeen
	}{
		{"right all the time", 0},
		{"was behind", -hour},
		{"was at the epoch", -now.Sub(time.Unix(0, 0)).Truncate(time.Second)},
		{"was ahead", hour},
	} {
		for age, young := range map[time.Duration]bool{5 * time.Minute: true, 15 * time.Minute: false} {
			seen := nstest.ClockSet(t, now.Add(-age), tt.set)
			at := func(*sockdiag.Flow) (time.Time, bool) { return seen, true }
			a := New(Config{FirstSeen: at, EstablishedAfter: at})
			x := &action{Actuator: a, Request: hangup.Request{EstablishedBefore: alert}}
			if got := x.isYounger(&target{}); got != young {
				t.Errorf("%s: a flow of %v counts as younger: %t, want %t", tt.name, age, got, young)
			}
		}
	}
}
