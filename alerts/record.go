package alerts

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"tcphup/audit"
	"tcphup/hangup"
	"tcphup/internal/text"
)

// newRecord returns a record of the job without the fields of its event.
func (r *Receiver) newRecord(j *job, event audit.Event) audit.Record {
	rec := audit.Record{
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
	if t := j.target; t != nil {
		rec.Namespace, rec.Pod, rec.Destination, rec.Port = t.namespace, t.pod, t.destination, t.port
	}
	return rec
}

// podAttributes returns the namespace and the pod of a record for the log; none without node
// mode.
func podAttributes(rec *audit.Record) []any {
	if rec.Namespace == "" {
		return nil
	}
	return []any{"namespace", rec.Namespace, "pod", rec.Pod}
}

// recordBegin audits the action of the job before its first flow is touched. The action
// begins even if the record cannot be written.
func (r *Receiver) recordBegin(j *job, flows int) {
	j.action = fmt.Sprintf("%x-%d", r.created.UnixNano(), r.begun.Add(1))
	rec := r.newRecord(j, audit.EventBegin)
	rec.Flows = map[hangup.Outcome]int{hangup.Planned: flows}
	r.audit(rec)
}

// recordFlow logs and audits the outcome of a flow.
func (r *Receiver) recordFlow(j *job, result *hangup.Result) {
	rec, f := r.newRecord(j, audit.EventFlow), result.JSON()
	rec.Flow = &f
	if namespace, pod, ok := strings.Cut(result.Namespace, "/"); ok {
		rec.Namespace, rec.Pod = namespace, pod
	}
	r.log.With(podAttributes(&rec)...).Log(context.Background(), slog.LevelInfo, "flow handled", "policy", rec.Policy, "fingerprint", rec.Fingerprint,
		"local", f.Local, "remote", f.Remote, "cookie", f.Cookie, "pid", f.PID, "command", f.Command,
		"state", f.State, "method", f.Method, "outcome", f.Outcome, "took", result.Took, "reason", f.Reason, "detail", f.Detail, "err", f.Error)
	r.audit(rec)
}

func (r *Receiver) audit(rec audit.Record) {
	if err := r.config.Audit.Add(rec); err != nil {
		r.auditFailed.Do(func() { r.log.Error("cannot write audit record", "err", err) })
	}
}

// clipLimit is the maximum length in bytes of text from the sender in logs and records.
const clipLimit = 512
