// Package alerts receives Alertmanager's webhook notifications and turns them,
// by rules that an operator wrote, into requests to hang up flows.
//
// An alert is a request to bring the host to a state: no flow that the alert
// names and that shows the evidence is open. Every notification reconciles to
// that state and is answered when it holds, so a repeat, a retry, the twin of a
// highly available pair or a restart half way finds less to do. There is no queue
// and no ledger: Alertmanager keeps the alert and repeats it while it fires.
//
// Nothing in an alert can widen what is done. Its labels choose a policy and name
// a destination inside what the policy allows; whatever is missing, unreadable or
// outside is refused with a reason, counted, recorded and answered. Annotations
// are never read. Without credentials everything is shadow: planned and reported,
// nothing closed.
package alerts

import (
	"context"
	"net/netip"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// HangUpper hangs up flows.
type HangUpper interface {
	// HangUp brings the host to the state that the request describes, within the time
	// of ctx, and reports the outcome of each flow. When ctx ends first, it starts
	// nothing new, returns soon and reports the rest as Planned; that is not an error.
	// On an error the state of the host could not be read or changed as a whole. It is
	// called from several goroutines, never at the same time for requests whose
	// destinations and ports overlap, and must not change the slices of the request.
	HangUp(ctx context.Context, request hangup.Request) (*hangup.Report, error)
}

// Names knows the addresses of names. It is what this package needs of a resolver
// that watches them.
type Names interface {
	// Addresses returns the addresses that the name has now and those that it had
	// before and has no more. Both are empty for a name that is not known or was
	// never resolved. It must not block on the network.
	Addresses(name string) (current, former []netip.Addr)
}

// Endpoint is a range of destinations with one port or with every port.
type Endpoint struct {
	Prefix netip.Prefix
	Port   uint16 // 0 means every port
}

// selector matches every flow to e.
func (e Endpoint) selector() sockdiag.Selector {
	s := sockdiag.Selector{Destinations: []netip.Prefix{e.Prefix}}
	if e.Port != 0 {
		s.Ports = []uint16{e.Port}
	}
	return s
}

// covers reports whether everything that the target names lies inside e.
func (e Endpoint) covers(t *target) bool {
	for _, p := range t.prefixes {
		if !contains(e.Prefix, p) {
			return false
		}
	}
	if e.Port == 0 {
		return true
	}
	for _, port := range t.ports {
		if port != e.Port {
			return false
		}
	}
	return len(t.ports) > 0
}

// contains reports whether outer holds all of inner. The families never mix.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
