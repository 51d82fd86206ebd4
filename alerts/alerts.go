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
	"time"

	"tcphup/sockdiag"
)

// HangUpper hangs up flows. It is what this package needs of the actuator.
type HangUpper interface {
	// HangUp brings the host to the state that the action asks for, within the
	// time of ctx, and says what became of each flow. When ctx ends first it
	// starts nothing new, returns soon and counts what it left in
	// Result.Unfinished; that is not an error. An error means that the state of the
	// host could not be read or changed as a whole; what became of single flows is
	// in Result even then. It is called from several goroutines, never at the same
	// time for actions whose destinations and ports overlap.
	HangUp(ctx context.Context, a Action) (Result, error)
}

// Action is one request to hang up flows. The receiver of an Action may keep it
// but must not change what its slices hold.
type Action struct {
	// Policy is the name of the policy that decided.
	Policy string
	// Alert says on whose behalf, for logs.
	Alert AlertID
	// Selector names the flows. It always has at least one destination.
	Selector sockdiag.Selector
	// EstablishedBefore keeps every flow that was not certainly established before
	// this moment; the zero time means that any age will do.
	EstablishedBefore time.Time
	// Method is MethodAuto, MethodShutdown or MethodDestroy.
	Method string
	// MPTCP is MPTCPConnection or MPTCPPath.
	MPTCP string
	// MaxFlows and MaxFraction are the budget: with more matching flows than
	// MaxFlows, or more than MaxFraction of the flows to the destination, nothing is
	// hung up at all and every flow is refused with the reason "budget". 0 flows
	// and a fraction of 0 mean no limit.
	MaxFlows    int
	MaxFraction float64
	// Rate is how many flows a second are hung up at most; 0 means no pacing.
	Rate float64
	// DrainQuiet is how long a busy flow has to be quiet before it is hung up, and
	// DrainDeadline how long that is waited for; 0 of either means no waiting.
	DrainQuiet, DrainDeadline time.Duration
	// Linger is how long a flow may take to end after it was hung up.
	Linger time.Duration
	// Never holds what must not be touched whatever the selector says.
	Never []Endpoint
	// Shadow asks to plan and report and to close nothing.
	Shadow bool
}

// AlertID says which alert an action belongs to.
type AlertID struct {
	// Fingerprint and StartsAt together are stable over repeats and over the peers
	// of a highly available Alertmanager.
	Fingerprint string
	StartsAt    time.Time
	// ExternalURL is where the Alertmanager that sent it says it can be reached.
	ExternalURL string
}

// The ways to hang up, see Policy.Method.
const (
	MethodAuto     = "auto"
	MethodShutdown = "shutdown"
	MethodDestroy  = "destroy"
)

// What is hung up when a selector matches a path of an MPTCP connection, see
// Policy.MPTCP.
const (
	MPTCPConnection = "connection" // the whole connection
	MPTCPPath       = "path"       // the matching path, where another one remains
)

// The outcomes of one flow.
const (
	OutcomeClosed     = "closed"
	OutcomeHalfClosed = "half_closed"
	OutcomeLingering  = "lingering"
	OutcomeGone       = "gone"
	OutcomePlanned    = "planned"
	OutcomeRefused    = "refused"
	OutcomeFailed     = "failed"
)

// The reasons of refusals that mean something here.
const (
	ReasonBudget   = "budget"   // there were too many flows
	ReasonEvidence = "evidence" // the flow does not look stale
	ReasonDenied   = "denied"   // the never list holds it
)

// Result says what became of an action.
type Result struct {
	// Outcomes counts flows by outcome, Refusals the refused ones by reason.
	Outcomes map[string]int
	Refusals map[string]int
	// Unfinished counts the flows that should have been hung up and were not,
	// because time ran out.
	Unfinished int
	// Flows holds one entry a flow for the audit. It may be nil.
	Flows []FlowRecord
}

// acted returns how many flows were really hung up.
func (r *Result) acted() int {
	return r.Outcomes[OutcomeClosed] + r.Outcomes[OutcomeHalfClosed] + r.Outcomes[OutcomeLingering]
}

// refusedByGuard returns how many flows should have been hung up and could not be.
// A flow that does not show the evidence, or that must never be touched, is as it
// should be.
func (r *Result) refusedByGuard() int {
	return r.Outcomes[OutcomeRefused] - r.Refusals[ReasonEvidence] - r.Refusals[ReasonDenied]
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
