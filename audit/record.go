// Package audit records decisions about alerts and flows, and hang-ups by hand: a line of JSON
// for each step. The alert receiver and the command line share it.
package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"tcphup/hangup"
)

// Event is the kind of a Record.
type Event string

// The events. An action that hangs up flows has a begin record, then one flow record per
// flow, and an end record. Other decisions have no begin record.
const (
	EventBegin   Event = "begin"   // Flows are Planned, the first one is about to be touched
	EventFlow    Event = "flow"    // the outcome of Flow is final
	EventEnd     Event = "end"     // the alert, or the hang-up by hand, has a result
	EventAborted Event = "aborted" // a restart found no end record of the action
)

// Record is a step of the handling of an alert, or of a hang-up by hand.
type Record struct {
	Time  time.Time `json:"time"`
	Event Event     `json:"event"`
	// Action identifies the action of a begin record and its other records.
	Action string `json:"action,omitempty"`
	// User is set for a hang-up by hand only. Such records have no Policy, Fingerprint,
	// StartsAt, ExternalURL and Shadow.
	User        *User     `json:"user,omitempty"`
	Policy      string    `json:"policy,omitempty"` // empty: no policy matched
	Fingerprint string    `json:"fingerprint"`
	StartsAt    time.Time `json:"starts_at,omitzero"`
	ExternalURL string    `json:"external_url,omitempty"`
	// Namespace and Pod are names of Kubernetes: the pod of the flow in a flow record, otherwise
	// the labels of the alert. Both are empty without node mode, and Pod if the alert is about
	// every pod of the namespace.
	Namespace   string                 `json:"namespace,omitempty"`
	Pod         string                 `json:"pod,omitempty"`
	Destination string                 `json:"destination,omitempty"`
	Port        string                 `json:"port,omitempty"`
	Result      string                 `json:"result,omitempty"` // of an end record
	Detail      string                 `json:"detail,omitempty"` // reason as text
	Shadow      bool                   `json:"shadow,omitempty"`
	Flows       map[hangup.Outcome]int `json:"flows,omitempty"`  // of the action, by outcome
	Spared      map[hangup.Reason]int  `json:"spared,omitempty"` // of the alert, by reason
	Flow        *hangup.ResultJSON     `json:"flow,omitempty"`   // of a flow record
	// Reconnects is set in memory only, for an end record: the log has it before the
	// applications reconnect.
	Reconnects *Reconnects `json:"reconnects,omitempty"`
}

// Reconnects counts the flows of an action that the applications replaced, by the address
// of the new flow.
type Reconnects struct {
	SameAddress  int `json:"same_address"`
	OtherAddress int `json:"other_address"`
}

// User is the user of a hang-up by hand.
type User struct {
	UID int `json:"uid"` // real user ID
	// Login is the user of the login session, or else of sudo, which SUDO_USER names;
	// "" if both are unknown.
	Login string `json:"login,omitempty"`
	// Terminal is a path such as /dev/pts/0; "" without a terminal.
	Terminal string `json:"terminal,omitempty"`
}

// Aborted returns an aborted record, without Time, for each action of an alert in an audit
// log that has neither an end record nor an aborted one. It skips hang-ups by hand: their
// process may still run. The log may begin in the middle of an action or a line; lines that
// are no records are skipped.
func Aborted(log []byte) []Record {
	var open []Record
	planned := make(map[string]int) // by Action, of begin records
	for line := range bytes.Lines(log) {
		var r Record
		if err := json.Unmarshal(line, &r); err != nil || r.Action == "" || r.User != nil {
			continue
		}
		sameAction := func(other Record) bool { return other.Action == r.Action }
		if r.Event == EventEnd || r.Event == EventAborted {
			open = slices.DeleteFunc(open, sameAction)
			continue
		}
		i := slices.IndexFunc(open, sameAction)
		if r.Event == EventBegin {
			planned[r.Action] = r.Flows[hangup.Planned]
		}
		if i < 0 {
			i, open = len(open), append(open, r)
			open[i].Event, open[i].Flow, open[i].Flows = EventAborted, nil, make(map[hangup.Outcome]int)
		}
		if r.Flow != nil {
			open[i].Flows[r.Flow.Outcome]++
		}
	}
	for i := range open {
		open[i].Detail = "tcphup ended during the action"
		if n, known := planned[open[i].Action]; known {
			for _, recorded := range open[i].Flows {
				n -= recorded
			}
			open[i].Detail += fmt.Sprintf("; flows without a record: %d", max(n, 0))
		}
	}
	return open
}
