package sockdiag

import (
	"net/netip"
	"testing"
	"time"
)

// Unknown times match no selector with a minimum.
func TestSelector(t *testing.T) {
	idle := func(d time.Duration) Flow {
		return Flow{
			State: Established, Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.5:5432"),
			HasInfo: true, TCPInfo: TCPInfo{LastDataSent: d, LastDataReceived: d, LastAckReceived: d},
		}
	}
	flow, unknown, connecting, stalled := idle(time.Minute), idle(0), idle(time.Hour), idle(time.Minute)
	unknown.HasInfo = false
	connecting.State = SynSent // tcp_info has times since boot here
	stalled.Timer, stalled.Retries = TimerRetransmit, 1
	to := func(change func(*Selector)) Selector {
		s := Selector{Destinations: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
		if change != nil {
			change(&s)
		}
		return s
	}
	tests := []struct {
		name      string
		selector  Selector
		flow      Flow
		direction Direction
		want      bool
	}{
		{"zero", Selector{}, flow, Outbound, false},
		{"no destination", to(func(s *Selector) { s.Destinations, s.Direction = nil, Either }), flow, Outbound, false},
		{"destination", to(nil), flow, Outbound, true},
		{"other destination", to(func(s *Selector) { s.Destinations[0] = netip.MustParsePrefix("10.0.1.0/24") }), flow, Outbound, false},
		{"excepted", to(func(s *Selector) { s.Except = []netip.Prefix{netip.PrefixFrom(flow.Remote.Addr(), 32)} }), flow, Outbound, false},
		{"another address excepted", to(func(s *Selector) { s.Except = []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")} }), flow, Outbound, true},
		{"port", to(func(s *Selector) { s.Ports = Ports(80, 5432) }), flow, Outbound, true},
		{"other port", to(func(s *Selector) { s.Ports = Ports(80) }), flow, Outbound, false},
		{"port range", to(func(s *Selector) { s.Ports = []PortRange{{1, 80}, {5432, 5440}} }), flow, Outbound, true},
		{"other port range", to(func(s *Selector) { s.Ports = []PortRange{{1, 5431}, {5433, 65535}} }), flow, Outbound, false},
		{"source", to(func(s *Selector) { s.Sources = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30")} }), flow, Outbound, true},
		{"other source", to(func(s *Selector) { s.Sources = []netip.Prefix{netip.MustParsePrefix("10.0.0.5/32")} }), flow, Outbound, false},
		{"own port", to(func(s *Selector) { s.Ports = Ports(40000) }), flow, Outbound, false},
		{"inbound, selector is outbound", to(nil), flow, Inbound, false},
		{"inbound", to(func(s *Selector) { s.Direction = Inbound }), flow, Inbound, true},
		{"inbound, the peer's port", to(func(s *Selector) { s.Direction, s.Ports = Inbound, Ports(5432) }), flow, Inbound, false},
		{"outbound, selector is inbound", to(func(s *Selector) { s.Direction = Inbound }), flow, Outbound, false},
		{"either", to(func(s *Selector) { s.Direction = Either }), flow, Inbound, true},
		{"other state", to(func(s *Selector) { s.States = States(CloseWait) }), flow, Outbound, false},
		{"idle", to(func(s *Selector) { s.MinIdle = time.Minute }), flow, Outbound, true},
		{"not idle long enough", to(func(s *Selector) { s.MinIdle = time.Minute + 1 }), flow, Outbound, false},
		{"unknown idle time", to(func(s *Selector) { s.MinIdle = 1 }), unknown, Outbound, false},
		{"idle during the handshake", to(func(s *Selector) { s.MinIdle = 1 }), connecting, Outbound, false},
		{"peer silent", to(func(s *Selector) { s.MinPeerSilence = time.Minute }), flow, Outbound, true},
		{"peer not silent long enough", to(func(s *Selector) { s.MinPeerSilence = time.Minute + 1 }), flow, Outbound, false},
		{"unknown peer silence", to(func(s *Selector) { s.MinPeerSilence = 1 }), unknown, Outbound, false},
		{"peer silent during the handshake", to(func(s *Selector) { s.MinPeerSilence = 1 }), connecting, Outbound, false},
		{"stalled", to(func(s *Selector) { s.Stalled = true }), stalled, Outbound, true},
		{"not stalled", to(func(s *Selector) { s.Stalled = true }), flow, Outbound, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.selector.Match(&tt.flow, tt.direction); got != tt.want {
				t.Errorf("match is %t, want %t", got, tt.want)
			}
		})
	}
}
