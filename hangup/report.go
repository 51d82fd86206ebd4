package hangup

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tcphup/sockdiag"
)

// Outcome is the result for one flow.
type Outcome string

// The outcomes. TestDocs copies the comments into the documentation.
const (
	Closed     Outcome = "closed"      // the kernel no longer lists the flow, or lists it in TIME_WAIT
	HalfClosed Outcome = "half_closed" // the peer acknowledged the FIN but did not send its own
	Lingering  Outcome = "lingering"   // the peer did not acknowledge the FIN within the linger time
	Gone       Outcome = "gone"        // the flow ended before it was hung up
	Planned    Outcome = "planned"     // dry run or shadow, or the action timed out before this flow
	Refused    Outcome = "refused"     // a safety check rejected the flow; the reason names the check
	Failed     Outcome = "failed"      // a system call failed; the error has the cause
)

// Outcomes returns all outcomes.
func Outcomes() []Outcome {
	return []Outcome{Closed, HalfClosed, Lingering, Gone, Planned, Refused, Failed}
}

// Reason names the safety check that refused a flow.
type Reason string

// The reasons. TestDocs copies the comments into the documentation.
const (
	ReasonIdentity    Reason = "identity"     // the descriptor no longer refers to the selected flow
	ReasonSIGPIPE     Reason = "sigpipe"      // SIGPIPE would kill the owner at its next write
	ReasonPermission  Reason = "permission"   // a capability or a kernel feature is missing
	ReasonEvidence    Reason = "evidence"     // the flow became active after it was selected
	ReasonBudget      Reason = "budget"       // more flows match than the limit of one action
	ReasonDenied      Reason = "denied"       // the flow is on the never list
	ReasonLastSubflow Reason = "last_subflow" // destroy would remove the last subflow of an MPTCP connection without an error in the application
	ReasonListener    Reason = "listener"     // the socket is a listener
	ReasonDirection   Reason = "direction"    // it is unknown which side opened the connection
	ReasonSelf        Reason = "self"         // the socket belongs to tcphup
	ReasonShared      Reason = "shared"       // the flow may belong to a service that has the former address now
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{
		ReasonIdentity, ReasonSIGPIPE, ReasonPermission, ReasonEvidence, ReasonBudget,
		ReasonDenied, ReasonLastSubflow, ReasonListener, ReasonDirection, ReasonSelf, ReasonShared,
	}
}

// Result is a selected flow and its outcome.
type Result struct {
	// Flow is the flow at its selection: a TCP flow, an MPTCP connection, or a single
	// subflow in Path mode.
	Flow sockdiag.Flow
	// Subflows are those of an MPTCP connection at the last check before the hang-up.
	Subflows  []sockdiag.Flow
	Direction sockdiag.Direction
	// PID and Command are of one owner of the socket; 0 and "" if none was found.
	PID     int
	Command string
	// Method is the method used, or selected for a Planned flow.
	Method  Method
	Outcome Outcome
	Reason  Reason // of a Refused flow, else ""
	// Detail explains the method, the safety check or the missing capability.
	Detail string
	// Err is the cause of Failed, else nil.
	Err error
	// Took is the time from the hang-up to the last lookup; 0 without a hang-up.
	Took time.Duration
	// Reconnect is the replacement of the flow; nil if it was not watched.
	Reconnect *Reconnect
}

// Reconnect is the flow that an application opened after a hang-up.
type Reconnect struct {
	// Remote is the destination of the new flow; invalid if there was none.
	Remote netip.AddrPort
	// After is the time from the hang-up to the first dump with the new flow, or to the
	// end of the watch.
	After time.Duration
}

// SameAddress reports whether the new flow has the destination address of the old one.
func (r *Reconnect) SameAddress(old *sockdiag.Flow) bool { return r.Remote.Addr() == old.Remote.Addr() }

// Report is the result of one action.
type Report struct {
	// Results holds every selected flow, in the order of processing.
	Results []Result
	// Covered counts the flows that match by address, port and direction, with or
	// without the evidence.
	Covered int
	// LeftAlone counts the flows that match except for their direction.
	LeftAlone int
	// Processes counts the processes searched for owners, and Unreadable the processes
	// among them that could not be inspected: permission denied.
	Processes, Unreadable int
	// OwnersTook is the duration of the /proc scan.
	OwnersTook time.Duration
}

// Count returns the number of flows with one of the outcomes.
func (r *Report) Count(outcomes ...Outcome) int {
	n := 0
	for i := range r.Results {
		if slices.Contains(outcomes, r.Results[i].Outcome) {
			n++
		}
	}
	return n
}

// Outcomes counts the flows by outcome, without outcomes of 0 flows; nil without flows.
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

// FormatOutcomes lists counts as text, in the order of Outcomes: "3 closed, 1 failed".
func FormatOutcomes(counts map[Outcome]int) string {
	var parts []string
	for _, o := range Outcomes() {
		if n := counts[o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, o))
		}
	}
	return strings.Join(parts, ", ")
}

// Refusals counts the refused flows by reason, without reasons of 0 flows.
func (r *Report) Refusals() map[Reason]int {
	counts := make(map[Reason]int)
	for i := range r.Results {
		if r.Results[i].Outcome == Refused {
			counts[r.Results[i].Reason]++
		}
	}
	return counts
}
