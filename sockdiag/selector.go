package sockdiag

import (
	"net/netip"
	"slices"
	"time"
)

// Selector matches flows. The zero Selector matches none.
type Selector struct {
	// Destinations are the peer's addresses. Empty matches no flow. An IPv4 prefix
	// matches IPv4-mapped sockets too; an IPv6 prefix never does.
	Destinations []netip.Prefix
	// Except are peer addresses that do not match although Destinations has them.
	Except []netip.Prefix
	// Sources are the local addresses, as Destinations; empty matches every address.
	Sources []netip.Prefix
	// Ports are the service's ports: remote for outbound flows, local for inbound flows.
	// Empty matches every port.
	Ports []PortRange
	// Direction defaults to Outbound.
	Direction Direction
	// States defaults to Open.
	States StateSet
	// MinIdle is the minimum of Flow.Idle; 0 matches any flow. An unknown idle time does
	// not match a MinIdle above 0.
	MinIdle time.Duration
	// MinPeerSilence is the minimum of Flow.PeerSilence, with the same rules.
	MinPeerSilence time.Duration
	// Stalled requires Flow.Stalled.
	Stalled bool
}

// Everywhere returns 0.0.0.0/0 and ::/0.
func Everywhere() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// StateSet returns States or its default.
func (s *Selector) StateSet() StateSet {
	if s.States == 0 {
		return Open
	}
	return s.States
}

// MayMatch reports whether the flow's addresses and ports match in at least one direction.
// The kernel's filter is equivalent, except that it treats IPv4-mapped addresses as IPv6 too
// and ignores Except.
func (s *Selector) MayMatch(f *Flow) bool {
	return s.containsAddrs(f) && (s.containsPort(f.Remote.Port()) || s.containsPort(f.Local.Port()))
}

// MatchEndpoint reports whether both addresses and the service's port match for a flow of
// direction d. It does not check Direction.
func (s *Selector) MatchEndpoint(f *Flow, d Direction) bool {
	port := f.Remote.Port()
	if d == Inbound {
		port = f.Local.Port()
	}
	return s.containsAddrs(f) && s.containsPort(port)
}

// MatchEvidence reports whether the flow satisfies MinIdle, MinPeerSilence and Stalled.
func (s *Selector) MatchEvidence(f *Flow) bool {
	if s.MinIdle > 0 {
		if idle, known := f.Idle(); !known || idle < s.MinIdle {
			return false
		}
	}
	if s.MinPeerSilence > 0 {
		if silence, known := f.PeerSilence(); !known || silence < s.MinPeerSilence {
			return false
		}
	}
	return !s.Stalled || f.Stalled()
}

// Match reports whether a flow of direction d matches in direction, endpoint, state and
// evidence.
func (s *Selector) Match(f *Flow, d Direction) bool {
	return s.Direction.Includes(d) && s.MatchEndpoint(f, d) && s.StateSet().Has(f.State) && s.MatchEvidence(f)
}

// Excludes reports whether Except has the address of the peer.
func (s *Selector) Excludes(f *Flow) bool { return contains(s.Except, f.Remote.Addr()) }

func (s *Selector) containsAddrs(f *Flow) bool {
	return contains(s.Destinations, f.Remote.Addr()) && !s.Excludes(f) &&
		(len(s.Sources) == 0 || contains(s.Sources, f.Local.Addr()))
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (s *Selector) containsPort(port uint16) bool {
	return len(s.Ports) == 0 || slices.ContainsFunc(s.Ports, func(r PortRange) bool { return r.Contains(port) })
}
