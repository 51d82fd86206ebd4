package hangup

import (
	"net/netip"
	"slices"
	"time"

	"tcphup/sockdiag"
)

// Outcome is the result for one flow.
type Outcome string

const (
	// Closed means: the kernel no longer lists the flow, or only in TIME_WAIT.
	Closed Outcome = "closed"
	// HalfClosed means: the peer acknowledged the FIN and keeps its side open.
	HalfClosed Outcome = "half_closed"
	// Lingering means: the peer did not acknowledge the FIN within the linger time.
	Lingering Outcome = "lingering"
	// Gone means: the flow ended before it was hung up.
	Gone Outcome = "gone"
	// Planned means: a dry run or shadow, or time ran out before the flow's turn.
	Planned Outcome = "planned"
	// Refused means: a safety check rejected the flow; the reason names the check.
	Refused Outcome = "refused"
	// Failed means: a system call failed; the error has the cause.
	Failed Outcome = "failed"
)

// Outcomes returns all outcomes.
func Outcomes() []Outcome {
	return []Outcome{Closed, HalfClosed, Lingering, Gone, Planned, Refused, Failed}
}

// Reason names the safety check that refused a flow.
type Reason string

const (
	// ReasonIdentity means: the descriptor does not lead to the chosen flow.
	ReasonIdentity Reason = "identity"
	// ReasonSIGPIPE means: the owner's next write would kill it.
	ReasonSIGPIPE Reason = "sigpipe"
	// ReasonPermission means: a right or a kernel feature is missing.
	ReasonPermission Reason = "permission"
	// ReasonEvidence means: the flow no longer shows the evidence that it was chosen by.
	ReasonEvidence Reason = "evidence"
	// ReasonBudget means: more flows match than one action may hang up.
	ReasonBudget Reason = "budget"
	// ReasonDenied means: a never rule covers the flow.
	ReasonDenied Reason = "denied"
	// ReasonLastSubflow means: destroying it would leave an MPTCP connection without a
	// subflow, and its application would get neither data nor an error.
	ReasonLastSubflow Reason = "last_subflow"
	// ReasonListener means: the socket accepts connections.
	ReasonListener Reason = "listener"
	// ReasonSelf means: the socket is tcphup's own.
	ReasonSelf Reason = "self"
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{
		ReasonIdentity, ReasonSIGPIPE, ReasonPermission, ReasonEvidence, ReasonBudget,
		ReasonDenied, ReasonLastSubflow, ReasonListener, ReasonSelf,
	}
}

// Result is one flow and its outcome.
type Result struct {
	// Flow is as it was when it was chosen; an MPTCP connection is one flow, and
	// so is a single subflow in Path mode.
	Flow sockdiag.Flow
	// Subflows of an MPTCP connection when it was chosen.
	Subflows  []sockdiag.Flow
	Direction sockdiag.Direction
	// PID and Command are of a process that holds the socket; 0 and "" when none
	// was found.
	PID     int
	Command string
	// Method is what was done to the flow, or would have been if it is Planned.
	Method  Method
	Outcome Outcome
	Reason  Reason // of a Refused flow, else ""
	// Detail explains, for people: the choice of the method, the safety check, the
	// missing right.
	Detail string
	// Err is the cause of Failed, else nil.
	Err error
	// Took is the time from acting on the flow to the last lookup of it; 0 when it
	// was not acted on.
	Took time.Duration
	// Reconnect is the application's next flow; nil when it was not watched for.
	Reconnect *Reconnect
}

// Reconnect is the flow that an application opened after a hang-up.
type Reconnect struct {
	// Remote is the other end of the new flow; invalid when none was seen.
	Remote netip.AddrPort
	// After is the time from the hang-up to the first sight of the new flow; when
	// none was seen, how long it was watched for.
	After time.Duration
}

// SameAddress reports whether the new flow leads to the address of the old one.
func (r *Reconnect) SameAddress(old *sockdiag.Flow) bool { return r.Remote.Addr() == old.Remote.Addr() }

// Report is the result of one action.
type Report struct {
	// Results holds every flow that the selector matched, in the order in which
	// they were dealt with.
	Results []Result
	// Covered counts the flows whose addresses, port and direction match, with or
	// without the evidence.
	Covered int
	// LeftAlone counts the flows that only their direction kept out.
	LeftAlone int
	// Processes were searched for owners; Unreadable ones of them could not be
	// inspected: permission denied.
	Processes, Unreadable int
	// OwnersTook is how long the pass over /proc took.
	OwnersTook time.Duration
}

// Count returns how many flows had one of the outcomes.
func (r *Report) Count(outcomes ...Outcome) int {
	n := 0
	for i := range r.Results {
		if slices.Contains(outcomes, r.Results[i].Outcome) {
			n++
		}
	}
	return n
}

// Outcomes counts the flows by outcome; outcomes that no flow had are absent. It is
// nil without flows.
func (r *Report) Outcomes() map[Outcome]int {
	if len(r.Results) == 0 {
		return nil
	}
	counts := make(map[Outcome]int)
	for i := range r.Results {
		counts[r.Results[i].Outcome]++
	}
	return counts
}

// Refusals counts the refused flows by reason; reasons that no flow had are absent.
func (r *Report) Refusals() map[Reason]int {
	counts := make(map[Reason]int)
	for i := range r.Results {
		if r.Results[i].Outcome == Refused {
			counts[r.Results[i].Reason]++
		}
	}
	return counts
}
