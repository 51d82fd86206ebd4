// Package alerts receives Alertmanager's webhook notifications and maps them, by the
// operator's policies, to requests to hang up flows.
//
// An alert describes the wanted state: no open flow to its destination meets the
// policy's evidence. Each notification reconciles the host to that state and gets its
// response when the state is reached. Handling is idempotent: repeats, retries and the
// second instance of a highly available pair find less to do. The package has no queue:
// Alertmanager stores the alert and repeats it while it fires.
//
// An alert cannot widen a policy. Its labels select the policy and one of the allowed
// destinations. A missing, invalid or disallowed label is refused with a reason, counted
// and recorded. Annotations are never read. Without credentials every policy is in shadow
// mode: flows are planned and reported, and none is closed.
package alerts

import (
	"context"
	"net/netip"
	"slices"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// HangUpper hangs up flows.
type HangUpper interface {
	// HangUp closes the flows that match the request and reports the outcome of each.
	// When ctx ends first, it closes no further flow, returns soon and reports the rest as
	// Planned without an error. An error concerns the whole action, such as a failed dump;
	// errors of single flows and namespaces are in the report. Concurrent calls never overlap
	// in namespace, destination and port, except dry runs. HangUp must not change the slices of
	// the request. It calls Begin and Done of the request as described there.
	HangUp(ctx context.Context, request hangup.Request) (*hangup.Report, error)
}

// Names returns the addresses of watched names.
type Names interface {
	// Addresses returns the current and the former addresses of the name. Both are empty
	// for a name that is not watched or not resolved yet. It must not block on the network.
	Addresses(name string) (current, former []netip.Addr)
	// Stale reports whether the flow leads to a former address of the name and belongs to
	// it, although another service may have the address now. It must not block on the
	// network.
	Stale(name string, f *sockdiag.Flow) bool
	// Other reports whether the flow leads to a former address of the name and belongs to
	// another service, which has the address now. A flow that is neither is unknown.
	Other(name string, f *sockdiag.Flow) bool
}

// Endpoint is a prefix with one port or every port.
type Endpoint struct {
	Prefix netip.Prefix
	Port   uint16 // 0 means every port
}

func (e Endpoint) selector() sockdiag.Selector {
	s := sockdiag.Selector{Destinations: []netip.Prefix{e.Prefix}}
	if e.Port != 0 {
		s.Ports = sockdiag.Ports(e.Port)
	}
	return s
}

// covers reports whether e includes every prefix and port of the target.
func (e Endpoint) covers(t *target) bool {
	if slices.ContainsFunc(t.prefixes, func(p netip.Prefix) bool { return !contains(e.Prefix, p) }) {
		return false
	}
	return e.Port == 0 ||
		len(t.ports) > 0 && !slices.ContainsFunc(t.ports, func(port uint16) bool { return port != e.Port })
}

// contains reports whether outer includes inner. Different families never match.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
