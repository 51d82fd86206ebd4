package statuspage

import (
	"cmp"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"tcphup/audit"
	"tcphup/hangup"
	"tcphup/internal/text"
)

// Limits of the decisions, and of the flows of each.
const (
	pageDecisions = 20
	pageFlows     = 50
)

// decision is the handling of an alert: an action with its flows, or a rejection. Without
// Private it has no alert, flows and detail.
type decision struct {
	Key     string // identifies it over refreshes of the page
	Time    time.Time
	Policy  string
	Where   string // destination of the alert, and pod or namespace in node mode
	Shadow  bool
	Outcome string // the result of the alert, or running
	Class   string // CSS class: good, plan, wait, bad or none
	Detail  string
	// Summary is the Detail of an action whose counts have the same content.
	Summary string
	// Counts are the flows by outcome. Refusals lists the refused flows by reason, and Spared
	// other flows that may not be stale.
	Counts           []outcomeCount
	Refusals, Spared string
	Reconnects       audit.Reconnects
	// Repeats counts earlier decisions about the same alert with the same result that closed
	// no flow; First is the time of the earliest one.
	Repeats int
	First   time.Time
	// Flows are those with the least expected outcomes first; More is the number of others.
	Flows []flowRow
	More  int

	alert   alertKey
	results []*audit.Record // with Flow
	before  int             // number of results before the begin record
	record  audit.Record    // the end record; the begin record of a running action
}

type outcomeCount struct {
	Outcome, Class string
	Flows          int
}

type flowRow struct {
	Ends, Process  string
	Outcome, Class string
	Detail         string
}

// alertKey identifies an alert of one sender under one policy. Its actions do not overlap.
type alertKey struct {
	policy, fingerprint, destination, port, sender string
	startsAt                                       time.Time
}

func keyOf(r *audit.Record) alertKey {
	return alertKey{r.Policy, r.Fingerprint, r.Destination, r.Port, r.ExternalURL, r.StartsAt.UTC()}
}

// setDecisions sets the last decisions, newest first, and those of running actions.
func (d *pageData) setDecisions(records []audit.Record) {
	all := groupRecords(records)
	slices.Reverse(all)
	latest := make(map[alertKey]*decision) // the one that earlier repeats are added to
	for _, e := range all {
		if later := latest[e.alert]; later != nil && later.repeats(e) {
			later.Repeats++
			later.First, later.Key = e.Time, e.Key
			continue
		}
		latest[e.alert] = e
		if hidden := d.Private && !d.Node.includes(e.record.Namespace); !hidden && len(d.Decisions) < pageDecisions {
			d.Decisions = append(d.Decisions, e)
		}
	}
	for _, e := range d.Decisions {
		e.setFlows(d.Private)
		if !d.Private {
			e.Where, e.Detail, e.Summary = "", "", ""
		}
	}
}

// groupRecords returns the decisions in the order of their last records. An action has an
// end record unless it is running.
func groupRecords(records []audit.Record) []*decision {
	var ended []*decision
	open := make(map[alertKey]*decision)
	var order []*decision // of open, by first record
	for i := range records {
		r := &records[i]
		key := keyOf(r)
		e := open[key]
		if e == nil {
			e = &decision{Key: strconv.FormatInt(r.Time.UnixNano(), 36), alert: key}
			open[key] = e
			order = append(order, e)
		}
		if r.Flow != nil {
			e.results = append(e.results, r)
		}
		if r.Event != audit.EventFlow || e.record.Event == "" {
			e.record = *r
		}
		if r.Event == audit.EventBegin {
			e.before = len(e.results)
		}
		e.Time = r.Time
		if r.Event != audit.EventFlow && r.Event != audit.EventBegin {
			ended = append(ended, e)
			delete(open, key)
		}
	}
	for _, e := range order {
		if open[e.alert] == e {
			ended = append(ended, e)
		}
	}
	for _, e := range ended {
		e.setResult()
	}
	return ended
}

// setResult sets the fields that come from the record.
func (e *decision) setResult() {
	r := &e.record
	e.Policy, e.Shadow, e.Detail = r.Policy, r.Shadow, text.Printable(r.Detail)
	if r.Destination != "" {
		e.Where = net.JoinHostPort(r.Destination, cmp.Or(r.Port, "0"))
	}
	if r.Namespace != "" {
		e.Where = text.JoinNonEmpty(" from ", e.Where, text.JoinNonEmpty("/", r.Namespace, r.Pod))
	}
	e.Where = text.Printable(e.Where)
	e.Outcome, e.Class = cmp.Or(r.Result, string(r.Event)), outcomeClass(cmp.Or(r.Result, string(r.Event)))
	counts := r.Flows
	if r.Event == audit.EventBegin || r.Event == audit.EventFlow {
		e.Outcome, e.Class = "running", "wait"
		counts = make(map[hangup.Outcome]int)
		for _, f := range e.results {
			counts[f.Flow.Outcome]++
		}
		if left := r.Flows[hangup.Planned] - (len(e.results) - e.before); left > 0 {
			counts[hangup.Planned] = left
		}
	}
	for _, outcome := range hangup.Outcomes() {
		if n := counts[outcome]; n > 0 {
			e.Counts = append(e.Counts, outcomeCount{string(outcome), outcomeClass(string(outcome)), n})
		}
	}
	refusals := make(map[hangup.Reason]int)
	for _, f := range e.results {
		if f.Flow.Outcome == hangup.Refused {
			refusals[f.Flow.Reason]++
		}
	}
	spared := maps.Clone(r.Spared) // includes refused ones
	for reason, n := range refusals {
		if spared[reason] > 0 {
			spared[reason] -= n
		}
	}
	e.Refusals, e.Spared = hangup.FormatReasons(refusals), hangup.FormatSpared(spared)
	if len(e.results) > 0 && slices.Contains([]string{"done", "kept", "refused", "shadow"}, r.Result) {
		e.Detail, e.Summary = "", e.Detail
	}
	if r.Reconnects != nil {
		e.Reconnects = *r.Reconnects
	}
}

// Total returns the number of flows with a record in memory.
func (e *decision) Total() int { return len(e.results) }

// repeats reports whether an earlier decision about the same alert has the same result and
// closed no flow.
func (e *decision) repeats(earlier *decision) bool {
	a, b := &e.record, &earlier.record
	closed := b.Flows[hangup.Closed] + b.Flows[hangup.HalfClosed] + b.Flows[hangup.Lingering]
	return closed == 0 && e.Outcome == earlier.Outcome && a.Event == b.Event && a.Shadow == b.Shadow &&
		maps.Equal(a.Flows, b.Flows) && maps.Equal(a.Spared, b.Spared)
}

// setFlows sets the rows of the flows.
func (e *decision) setFlows(private bool) {
	if !private {
		return
	}
	slices.SortStableFunc(e.results, func(a, b *audit.Record) int {
		return cmp.Compare(attention(a.Flow.Outcome), attention(b.Flow.Outcome))
	})
	e.More = max(0, len(e.results)-pageFlows)
	for _, r := range e.results[:len(e.results)-e.More] {
		f := r.Flow
		row := flowRow{
			Ends:    text.Printable(f.Local.String() + " → " + f.Remote.String()),
			Outcome: string(f.Outcome), Class: outcomeClass(string(f.Outcome)),
		}
		if f.PID != 0 {
			row.Process = f.Command + " (" + strconv.Itoa(f.PID) + ")"
		}
		row.Process = text.Printable(text.JoinNonEmpty(" in ", row.Process, text.JoinNonEmpty("/", r.Namespace, r.Pod)))
		method := f.Method
		if method == hangup.None {
			method = ""
		}
		row.Detail = text.Printable(text.JoinNonEmpty(": ", string(method), string(f.Reason), f.Detail, f.Error))
		e.Flows = append(e.Flows, row)
	}
}

// attention orders outcomes: those that an operator looks for first.
func attention(o hangup.Outcome) int {
	order := []hangup.Outcome{hangup.Failed, hangup.Refused, hangup.Lingering, hangup.HalfClosed, hangup.Planned, hangup.Gone, hangup.Closed}
	return slices.Index(order, o)
}

// outcomeClass returns the CSS class of the outcome of a flow or the result of an alert.
func outcomeClass(outcome string) string {
	switch outcome {
	case "closed", "done":
		return "good"
	case "planned", "shadow":
		return "plan"
	case "half_closed", "lingering", "cooldown", "unfinished", "paused", "kept":
		return "wait"
	case "gone", "resolved", "unmatched":
		return "none"
	default:
		return "bad"
	}
}
