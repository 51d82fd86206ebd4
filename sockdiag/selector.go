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

// StateSet returns the states that the selector asks for.
func (s *Selector) StateSet() StateSet {
	if s.States == 0 {
		return Open
	}
	return s.States
}

// Covers reports whether the flow's addresses and ports match, in either
// direction. It is exactly what the kernel is asked to filter by.
func (s *Selector) Covers(f *Flow) bool {
	return s.containsAddr(f.Remote.Addr()) &&
		(s.containsPort(f.Remote.Port()) || s.containsPort(f.Local.Port()))
}

// CoversIn is Covers for a flow whose direction is known: only the service's own
// port counts, and a direction that was not asked for does not match.
func (s *Selector) CoversIn(f *Flow, d Direction) bool {
	if s.Direction != Either && s.Direction != d {
		return false
	}
	return s.containsAddr(f.Remote.Addr()) && s.containsPort(servicePort(f, d))
}

// LeftAlone reports whether the flow is kept out by nothing but its direction.
func (s *Selector) LeftAlone(f *Flow, d Direction) bool {
	return s.Direction != Either && s.Direction != d &&
		s.containsAddr(f.Remote.Addr()) && s.containsPort(servicePort(f, d))
}

// Shows reports whether the flow's own state is as the selector wants it: its
// state and the evidence.
func (s *Selector) Shows(f *Flow) bool {
	return s.StateSet().Has(f.State) && s.HasEvidence(f)
}

// HasEvidence reports whether the flow shows MinIdle, MinPeerSilence and Stalled.
func (s *Selector) HasEvidence(f *Flow) bool {
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

// Match reports whether the selector names the flow, given its direction.
func (s *Selector) Match(f *Flow, d Direction) bool { return s.CoversIn(f, d) && s.Shows(f) }

func servicePort(f *Flow, d Direction) uint16 {
	if d == Inbound {
		return f.Local.Port()
	}
	return f.Remote.Port()
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
