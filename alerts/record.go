package alerts

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"tcphup/hangup"
	"tcphup/internal/text"
)

// Event is the kind of a Record.
type Event string

// The events. An action that hangs up flows has a begin record, then one flow record per
// flow, and an end record. Other decisions have no begin record.
const (
	EventBegin   Event = "begin"   // Flows are Planned, the first one is about to be touched
	EventFlow    Event = "flow"    // the outcome of Flow is final
	EventEnd     Event = "end"     // the alert has a result
	EventAborted Event = "aborted" // a restart found no end record of the action
)

// Record is a step of the handling of an alert.
type Record struct {
	Time  time.Time `json:"time"`
	Event Event     `json:"event"`
	// Action identifies the action of a begin record and its other records.
	Action      string                 `json:"action,omitempty"`
	Policy      string                 `json:"policy,omitempty"` // empty: no policy matched
	Fingerprint string                 `json:"fingerprint"`
	StartsAt    time.Time              `json:"starts_at,omitzero"`
	ExternalURL string                 `json:"external_url,omitempty"`
	Destination string                 `json:"destination,omitempty"`
	Port        string                 `json:"port,omitempty"`
	Result      string                 `json:"result,omitempty"` // of an end record
	Detail      string                 `json:"detail,omitempty"` // reason as text
	Shadow      bool                   `json:"shadow,omitempty"`
	Flows       map[hangup.Outcome]int `json:"flows,omitempty"`  // of the action, by outcome
	Spared      map[hangup.Reason]int  `json:"spared,omitempty"` // of the alert, by reason
	Flow        *hangup.ResultJSON     `json:"flow,omitempty"`   // of a flow record
}

// Aborted returns an aborted record, without Time, for each action in an audit log that has
// neither an end record nor an aborted one. The log may begin in the middle of an action
// or a line; lines that are no records are skipped.
func Aborted(log []byte) []Record {
	var open []Record
	planned := make(map[string]int) // by Action, of begin records
	for line := range bytes.Lines(log) {
		var r Record
		if err := json.Unmarshal(line, &r); err != nil || r.Action == "" {
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

// newRecord returns a record of the job without the fields of its event.
func (r *Receiver) newRecord(j *job, event Event) Record {
	rec := Record{
		Time:        r.config.Now(),
		Event:       event,
		Action:      j.action,
		Fingerprint: text.Clip(j.alert.fingerprint, clipLimit),
		StartsAt:    j.alert.startsAt,
		ExternalURL: text.Clip(j.from.externalURL, clipLimit),
		Shadow:      j.shadow,
	}
	if j.policy != nil {
		rec.Policy = j.policy.Name
	}
	if j.target != nil {
		rec.Destination, rec.Port = j.target.destination, j.target.port
	}
	return rec
}

// recordBegin audits the action of the job before its first flow is touched. The action
// begins even if the record cannot be written.
func (r *Receiver) recordBegin(j *job, flows int) {
	j.action = fmt.Sprintf("%x-%d", r.created.UnixNano(), r.begun.Add(1))
	rec := r.newRecord(j, EventBegin)
	rec.Flows = map[hangup.Outcome]int{hangup.Planned: flows}
	r.audit(rec)
}

// recordFlow logs and audits the outcome of a flow.
func (r *Receiver) recordFlow(j *job, result *hangup.Result) {
	rec, f := r.newRecord(j, EventFlow), result.JSON()
	rec.Flow = &f
	r.log.Log(context.Background(), slog.LevelInfo, "flow handled", "policy", rec.Policy, "fingerprint", rec.Fingerprint,
		"local", f.Local, "remote", f.Remote, "cookie", f.Cookie, "pid", f.PID, "command", f.Command,
		"state", f.State, "method", f.Method, "outcome", f.Outcome, "took", result.Took, "reason", f.Reason, "detail", f.Detail, "err", f.Error)
	r.audit(rec)
}

func (r *Receiver) audit(rec Record) {
	if err := r.config.Audit.Add(rec); err != nil {
		r.auditFailed.Do(func() { r.log.Error("cannot write audit record", "err", err) })
	}
}

// clipLimit is the maximum length in bytes of text from the sender in logs and records.
const clipLimit = 512
