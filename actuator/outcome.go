package actuator

import (
	"slices"
	"time"

	"tcphup/sockdiag"
)

// Method is a way to hang up a flow.
type Method string

const (
	// Auto takes, for each flow, the first of the other two that is right for it.
	Auto Method = "auto"
	// Shutdown calls shutdown(2) on a duplicate of the application's socket: FIN.
	Shutdown Method = "shutdown"
	// Destroy uses SOCK_DESTROY: RST, queued data is lost.
	Destroy Method = "destroy"
	// None is reported for a flow that nothing was done to.
	None Method = "none"
)

// Methods are the values that a Request may ask for.
func Methods() []Method { return []Method{Auto, Shutdown, Destroy} }

// MPTCPMode says what is hung up when a selector matches one path of an MPTCP
// connection.
type MPTCPMode string

const (
	// Connection hangs up the whole connection.
	Connection MPTCPMode = "connection"
	// Path destroys the matching subflows alone, and only where another
	// established one remains: the application notices nothing.
	Path MPTCPMode = "path"
)

// MPTCPModes are the values that a Request may ask for.
func MPTCPModes() []MPTCPMode { return []MPTCPMode{Connection, Path} }

// Outcome is what became of one flow.
type Outcome string

const (
	// Closed means: gone from the kernel's table, or only TIME_WAIT is left.
	Closed Outcome = "closed"
	// HalfClosed means: the FIN was sent and acknowledged; the peer holds its end.
	HalfClosed Outcome = "half_closed"
	// Lingering means: the FIN was sent and the peer has not answered within the
	// linger time.
	Lingering Outcome = "lingering"
	// Gone means: it ended by itself before it was acted on.
	Gone Outcome = "gone"
	// Planned means: it would have been hung up (dry run, shadow), or was not reached
	// in time.
	Planned Outcome = "planned"
	// Refused means: a guard said no; the reason says which.
	Refused Outcome = "refused"
	// Failed means: the kernel said no; the error says why.
	Failed Outcome = "failed"
)

// Outcomes is the closed set.
func Outcomes() []Outcome {
	return []Outcome{Closed, HalfClosed, Lingering, Gone, Planned, Refused, Failed}
}

// Reason says which guard refused a flow.
type Reason string

const (
	// ReasonIdentity means: what was found under the flow's name is not the flow.
	ReasonIdentity Reason = "identity"
	// ReasonSIGPIPE means: the owner's next write would kill it.
	ReasonSIGPIPE Reason = "sigpipe"
	// ReasonPermission means: a right or a kernel feature is missing.
	ReasonPermission Reason = "permission"
	// ReasonEvidence means: the flow has come to life since it was chosen.
	ReasonEvidence Reason = "evidence"
	// ReasonBudget means: more flows match than one action may hang up.
	ReasonBudget Reason = "budget"
	// ReasonDenied means: a never rule covers the flow.
	ReasonDenied Reason = "denied"
	// ReasonLastSubflow means: destroying it would leave an MPTCP connection without a
	// path and its application without a word of it.
	ReasonLastSubflow Reason = "last_subflow"
	// ReasonListener means: the socket accepts connections.
	ReasonListener Reason = "listener"
	// ReasonSelf means: the socket is tcphup's own.
	ReasonSelf Reason = "self"
)

// Reasons is the closed set.
func Reasons() []Reason {
	return []Reason{
		ReasonIdentity, ReasonSIGPIPE, ReasonPermission, ReasonEvidence, ReasonBudget,
		ReasonDenied, ReasonLastSubflow, ReasonListener, ReasonSelf,
	}
}

// Result is one flow and what became of it.
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
	// Detail says why in words: the method's choice, the guard, the missing right.
	Detail string
	// Err is the kernel's word on a Failed flow, else nil.
	Err error
	// Took is the time from acting on the flow to the last look at it; 0 when it
	// was not acted on.
	Took time.Duration
	// Reconnect is what the application did next, if that was watched.
	Reconnect *Reconnect
}

// Report is what came of one action.
type Report struct {
	// Results holds every flow that the selector matched, in the order in which
	// they were dealt with.
	Results []Result
	// Covered counts the flows whose addresses, port and direction match, with or
	// without the evidence.
	Covered int
	// LeftAlone counts the flows that only their direction kept out.
	LeftAlone int
	// Processes were looked through for owners; Unreadable ones of them kept their
	// descriptors secret from us.
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
