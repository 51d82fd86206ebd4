package actuator

import (
	"slices"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// phase is how far an action has got with a flow.
type phase int

const (
	phasePlanned   phase = iota // chosen; its turn has not come
	phaseBusy                   // put off until it is quiet
	phaseOwnerLost              // put off until its owners have been searched again
	phaseAcquired               // a verified duplicate of its socket is held
	phaseHungUp                 // shut down or destroyed, by us or its application; not looked up since
	phaseVerifying              // looked up since then, and still open
	phaseDone                   // its outcome is final
)

// target is a flow on its way to an outcome.
type target struct {
	hangup.Result
	phase   phase
	holders []holder
	// ownersAt is the end of the pass over /proc that found the holders. searchedAgain
	// is set when none of them had the flow any more, and they were searched once more.
	ownersAt      time.Time
	searchedAgain bool
	// orphaned is set for a flow that its application closed before we could.
	orphaned bool
	// actedAt is the begin of the turn in which it was hung up. unconfirmed is set when
	// the kernel did not answer whether it was.
	actedAt     time.Time
	unconfirmed bool
	// connection is, in Path mode, the MPTCP connection that Flow is a path of, and
	// siblings are all of its paths.
	connection *sockdiag.Flow
	siblings   []sockdiag.Flow
	// queuedFirst and queuedLast are the bytes that the peer had still to take when a
	// quarter of Linger had passed since firstLookup, the first lookup after the flow
	// was hung up, and at the last lookup.
	queuedFirst, queuedLast uint32
	firstLookup             time.Time
}

// end makes the outcome final.
func (t *target) end(method hangup.Method, outcome hangup.Outcome) {
	t.phase, t.Method, t.Outcome = phaseDone, method, outcome
}

// inPhase returns the targets that are in the phase.
func inPhase(targets []*target, p phase) []*target {
	return slices.DeleteFunc(slices.Clone(targets), func(t *target) bool { return t.phase != p })
}
