package actuator

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// phase is the progress of an action on one flow.
type phase int

const (
	phasePlanned   phase = iota // selected
	phaseBusy                   // deferred until the flow is quiet
	phaseOwnerLost              // deferred until the next search for owners
	phaseAcquired               // verified duplicate of the socket is open
	phaseHungUp                 // shut down or destroyed, by tcphup or the application; not verified
	phaseVerifying              // still open at the last lookup
	phaseDone                   // outcome is final
)

// target is a selected flow and the progress of its hang-up.
type target struct {
	hangup.Result
	in            *namespace
	phase         phase
	reported      bool // Done was called
	holders       []holder
	ownersAt      time.Time // end of the /proc scan for the holders, zero before it
	scan          *owners   // result of that scan, nil before it
	searchedAgain bool      // holders no longer had the flow; limits that search to one
	// waitUntil ends the wait for the end of a message, and interrupts describes the message
	// at the last lookup.
	waitUntil  time.Time
	interrupts string
	// position is the index in Report.Results.
	position int
	// note is the part of Detail from before the hang-up. state is that of the last lookup
	// after it, and acknowledged the time until the first of them that showed HalfClosed.
	note         string
	state        sockdiag.State
	acknowledged time.Duration
	// finished is the Detail of a flow that was destroyed after Linger.
	finished string
	// orphaned is set for a flow that its application closed first.
	orphaned bool
	// actedAt is the time before the hang-up. unconfirmed is set when the kernel did not
	// acknowledge a destroy.
	actedAt     time.Time
	unconfirmed bool
	// hidden is set for a subflow of an MPTCP connection that the kernel does not list.
	hidden bool
	// connection is the MPTCP connection of Flow in Path mode, else nil; siblings are all
	// subflows of it.
	connection *sockdiag.Flow
	siblings   []sockdiag.Flow
	// queuedLast is the send queue in bytes at the last lookup. queuedFirst is the same at
	// a quarter of Linger after firstLookup, the first lookup after the hang-up.
	queuedFirst, queuedLast uint32
	firstLookup             time.Time
}

// pod returns the pod of the flow's network namespace, or nil.
func (t *target) pod() *hangup.Pod {
	if t.in == nil {
		return nil
	}
	return t.in.Pod
}

// end sets the final outcome.
func (t *target) end(method hangup.Method, outcome hangup.Outcome) {
	t.phase, t.Method, t.Outcome = phaseDone, method, outcome
}

// refuse ends a flow that a safety check rejected.
func (t *target) refuse(reason hangup.Reason, detail string) {
	t.Reason, t.Detail = reason, detail
	t.end(hangup.None, hangup.Refused)
}

// fail ends a flow after a failed system call.
func (t *target) fail(method hangup.Method, err error) {
	t.Err = err
	if hint := exhaustedHint(err); hint != "" {
		t.Detail = hint
	}
	t.end(method, hangup.Failed)
}

// exhaustedHint describes how to provide the descriptors or the memory that tcphup lacked. It
// returns "" for other errors.
func exhaustedHint(err error) string {
	switch {
	case errors.Is(err, syscall.EMFILE):
		return "out of descriptors: retry, or raise the limit of open files (ulimit -n, LimitNOFILE)"
	case errors.Is(err, syscall.ENFILE):
		return "out of descriptors: retry, or raise fs.file-max"
	case hangup.IsExhausted(err):
		return "out of memory: retry"
	default:
		return ""
	}
}

// failUnlessDone is fail for an untouched flow; the flow stays Planned when ctx has ended.
func (t *target) failUnlessDone(ctx context.Context, method hangup.Method, err error) {
	if ctx.Err() != nil {
		t.notProcessed()
		return
	}
	t.fail(method, err)
}

// notProcessed ends a flow that the action did not reach in time.
func (t *target) notProcessed() {
	t.Detail = "action ended before this flow was processed"
	t.end(hangup.None, hangup.Planned)
}

// inPhase returns the targets in the phase.
func inPhase(targets []*target, p phase) []*target {
	return slices.DeleteFunc(slices.Clone(targets), func(t *target) bool { return t.phase != p })
}
