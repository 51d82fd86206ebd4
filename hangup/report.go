package hangup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
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
	ReasonIdentity    Reason = "identity"     // the descriptor no longer refers to the selected flow, or a process outside of the owner filter or of the pod holds the socket
	ReasonSIGPIPE     Reason = "sigpipe"      // SIGPIPE would kill the owner at its next write
	ReasonPermission  Reason = "permission"   // a capability or a kernel feature is missing
	ReasonEvidence    Reason = "evidence"     // the flow does not have the evidence, or no longer
	ReasonTooYoung    Reason = "too_young"    // the age of the flow is unknown, so it may be younger than the alert
	ReasonShared      Reason = "shared"       // another watched name has the address, and the flow may belong to it
	ReasonBudget      Reason = "budget"       // more flows match than the limit of one action
	ReasonDenied      Reason = "denied"       // the flow is on the never list
	ReasonLastSubflow Reason = "last_subflow" // destroy would remove the last subflow of an MPTCP connection without an error in the application
	ReasonListener    Reason = "listener"     // the socket is a listener
	ReasonDirection   Reason = "direction"    // it is unknown which side opened the connection
	ReasonSelf        Reason = "self"         // the socket belongs to tcphup
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{
		ReasonIdentity, ReasonSIGPIPE, ReasonPermission, ReasonEvidence, ReasonTooYoung, ReasonShared, ReasonBudget,
		ReasonDenied, ReasonLastSubflow, ReasonListener, ReasonDirection, ReasonSelf,
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
	// Namespace is the name of an element of Request.Namespaces, else "".
	Namespace string
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
	// Took is the time from the hang-up to the last lookup, of a HalfClosed flow to the
	// acknowledgement of the FIN; 0 without a hang-up.
	Took time.Duration
	// Reconnect is the replacement of the flow; nil before Report.AwaitReconnects, and if
	// it was not watched.
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
	// Covered counts the flows that match by address, port, direction and owner, with or
	// without the evidence.
	Covered int
	// LeftAlone counts the flows that match except for their direction, Younger those that
	// were established after Request.EstablishedBefore, and Others those of Request.Other.
	LeftAlone, Younger, Others int
	// Closing counts the flows that match by address, port and direction, and that the local
	// side has closed already: they wait for the FIN of the peer, and were not selected.
	Closing int
	// UnknownOwner counts the flows that match except for Request.Owner and have no visible
	// process, and OtherOwner those of other processes. The other counts include neither.
	UnknownOwner, OtherOwner int
	// Unselected counts the flows that match by address, port and direction and were not
	// selected, by reason. Spared adds those that were refused later.
	Unselected map[Reason]int
	// Processes counts the processes searched for owners, and Unreadable the processes
	// among them that could not be inspected: permission denied. Unsearched counts the
	// processes of other users and cgroups that were not searched in time.
	Processes, Unreadable, Unsearched int
	// OwnersTook is the duration of the /proc scan.
	OwnersTook time.Duration
	// AwaitReconnects waits for the end of the reconnect watch and sets Reconnect of the
	// results. When ctx ends, so does the watch. It is nil if no flow is watched.
	AwaitReconnects func(ctx context.Context) error
	// NamespaceErrors are the elements of Request.Namespaces without a plan: the namespace
	// has ended, or its sockets could not be read. The other elements were processed.
	NamespaceErrors []NamespaceError
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

// Exhausted counts the Failed flows whose cause is IsExhausted.
func (r *Report) Exhausted() int {
	n := 0
	for i := range r.Results {
		if r.Results[i].Outcome == Failed && IsExhausted(r.Results[i].Err) {
			n++
		}
	}
	return n
}

// IsExhausted reports whether tcphup or the kernel was out of descriptors or memory: a
// retry may succeed.
func IsExhausted(err error) bool {
	return slices.ContainsFunc([]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS}, func(target error) bool {
		return errors.Is(err, target)
	})
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
func FormatOutcomes(counts map[Outcome]int) string { return formatCounts(Outcomes(), counts) }

// FormatSpared lists the counts of Spared as text, in the order of SparedReasons.
func FormatSpared(counts map[Reason]int) string { return formatCounts(SparedReasons(), counts) }

// FormatReasons lists counts as text, in the order of Reasons.
func FormatReasons(counts map[Reason]int) string { return formatCounts(Reasons(), counts) }

func formatCounts[K comparable](order []K, counts map[K]int) string {
	var parts []string
	for _, key := range order {
		if n := counts[key]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %v", n, key))
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

// SparedReasons returns the reasons for which a flow is spared: it may not be stale.
func SparedReasons() []Reason {
	return []Reason{ReasonEvidence, ReasonTooYoung, ReasonDirection, ReasonShared}
}

// Spared counts the flows that match by address, port and direction but may not be stale,
// by reason, without reasons of 0 flows; nil without such flows.
func (r *Report) Spared() map[Reason]int {
	var spared map[Reason]int
	refusals := r.Refusals()
	for _, reason := range SparedReasons() {
		n := r.Unselected[reason] + refusals[reason]
		if n > 0 && spared == nil {
			spared = make(map[Reason]int)
		}
		if n > 0 {
			spared[reason] = n
		}
	}
	return spared
}
