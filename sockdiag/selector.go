package sockdiag

import (
	"net/netip"
	"slices"
	"time"
)

// Selector names flows. The zero Selector matches nothing.
type Selector struct {
	// Destinations holds the peers' addresses. None means that nothing matches.
	// An IPv4 prefix matches IPv4-mapped sockets too; an IPv6 prefix never does,
	// however short it is.
	Destinations []netip.Prefix
	// Ports holds the service's ports: the remote one of an outbound flow, the
	// local one of an inbound flow. None means every port.
	Ports []uint16
	// Direction is Outbound unless said otherwise.
	Direction Direction
	// States is Open when it is empty.
	States StateSet
	// MinIdle is how long no data may have gone in either direction; 0 means any.
	// A flow whose idle time is unknown does not match a MinIdle above 0.
	MinIdle time.Duration
	// MinPeerSilence is how long the peer must not have acknowledged anything, not
	// even a keepalive probe; 0 means any. Unknown does not match.
	MinPeerSilence time.Duration
	// Stalled asks for flows whose peer leaves probes or retransmissions
	// unanswered (see Flow.Stalled).
	Stalled bool
}

// Everywhere returns the prefixes that contain every address.
func Everywhere() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// StateSet returns the states that the selector asks for.
func (s *Selector) StateSet() StateSet {
	if s.States == 0 {
		return Open
	}
	return s.States
}

// MayMatch reports whether the flow's addresses and ports match in at least one
// direction. It is exactly what the kernel is asked to filter by.
func (s *Selector) MayMatch(f *Flow) bool {
	return s.containsAddr(f.Remote.Addr()) &&
		(s.containsPort(f.Remote.Port()) || s.containsPort(f.Local.Port()))
}

// MatchEndpoint reports whether the peer's address and the service's port match for a
// flow of direction d, whether or not the selector includes that direction.
func (s *Selector) MatchEndpoint(f *Flow, d Direction) bool {
	port := f.Remote.Port()
	if d == Inbound {
		port = f.Local.Port()
	}
	return s.containsAddr(f.Remote.Addr()) && s.containsPort(port)
}

// MatchEvidence reports whether the flow shows MinIdle, MinPeerSilence and Stalled.
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

// Match reports whether the selector selects a flow of direction d: by direction,
// endpoint, state and evidence.
func (s *Selector) Match(f *Flow, d Direction) bool {
	return s.Direction.Includes(d) && s.MatchEndpoint(f, d) && s.StateSet().Has(f.State) && s.MatchEvidence(f)
}

func (s *Selector) containsAddr(a netip.Addr) bool {
	for _, p := range s.Destinations {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (s *Selector) containsPort(port uint16) bool {
	return len(s.Ports) == 0 || slices.Contains(s.Ports, port)
}
