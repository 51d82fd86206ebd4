package command

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"tcphup/hangup"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

type reportJSON struct {
	Flows     []hangup.ResultJSON    `json:"flows"`
	Outcomes  map[hangup.Outcome]int `json:"outcomes"` // includes outcomes with 0 flows
	Spared    map[hangup.Reason]int  `json:"spared,omitempty"`
	Closing   int                    `json:"closing"` // closed by the local side already
	LeftAlone int                    `json:"other_direction_left_alone"`
	// UnknownOwner counts flows that match except for the owner filter.
	UnknownOwner int              `json:"unknown_owner_left_alone,omitempty"`
	Unread       []netnsErrorJSON `json:"netns_errors,omitempty"`
}

func writeJSON(w io.Writer, report *hangup.Report) error {
	out := reportJSON{
		Flows: []hangup.ResultJSON{}, Outcomes: make(map[hangup.Outcome]int), Spared: report.Spared(),
		Closing: report.Closing, LeftAlone: report.LeftAlone, UnknownOwner: report.UnknownOwner, Unread: netnsErrorsJSON(report.NamespaceErrors),
	}
	for _, o := range hangup.Outcomes() {
		out.Outcomes[o] = report.Count(o)
	}
	for i := range report.Results {
		out.Flows = append(out.Flows, report.Results[i].JSON())
	}
	return printJSON(w, out)
}

func writeTable(w io.Writer, report *hangup.Report) error {
	why := newExplanations(report)
	color := useColor(w)
	if err := reportTable(report, why).write(w, color); err != nil {
		return err
	}
	return writeLines(w, why.lines(terminalWidth(w), color))
}

func reportTable(report *hangup.Report, why *explanations) *table {
	t := &table{columns: []column{
		{name: "LOCAL", port: true},
		{name: "REMOTE", shared: 2},
		{name: "OWNER", shared: 2, none: "owner unknown"},
		{name: "IDLE", right: true},
		{name: "OUTCOME"},
		{name: "METHOD", shared: 1, none: "not hung up", optional: true},
		{name: "STATE", shared: 1, optional: true},
		{name: "PROTOCOL", shared: 1, optional: true},
	}}
	netns := make([]string, len(report.Results))
	for i := range report.Results {
		r := &report.Results[i]
		netns[i] = r.Namespace
		t.add(cell{text: r.Flow.Local.String()}, cell{text: r.Flow.Remote.String()}, dash(ownerText(r.PID, r.Command)), idleCell(r.Flow.Idle()),
			cell{why.label(r), outcomeStyle(r.Outcome)}, cell{text: string(r.Method)}, cell{text: r.Flow.State.String()}, cell{text: r.Flow.Protocol.String()})
	}
	return t.addNetns(netns)
}

func outcomeStyle(o hangup.Outcome) style {
	switch o {
	case hangup.Refused, hangup.Failed:
		return red
	case hangup.HalfClosed, hangup.Lingering:
		return yellow
	default:
		return ""
	}
}

// explanations are the details and errors below a report: each once, with the outcome of its
// rows. If the rows of an outcome have several, they are numbered.
type explanations struct {
	order []explanation
	texts map[string][]string // by outcome
}

type explanation struct{ outcome, text string }

func newExplanations(report *hangup.Report) *explanations {
	e := &explanations{texts: make(map[string][]string)}
	for i := range report.Results {
		r := &report.Results[i]
		x := explain(r)
		if x.text == "" || slices.Contains(e.texts[x.outcome], x.text) {
			continue
		}
		e.texts[x.outcome] = append(e.texts[x.outcome], x.text)
		e.order = append(e.order, x)
	}
	return e
}

func explain(r *hangup.Result) explanation {
	x := explanation{outcome: string(r.Outcome), text: text.Printable(r.Detail)}
	if r.PID != 0 {
		// The table has the owner: equal texts are printed once.
		x.text = strings.ReplaceAll(x.text, text.Printable(fmt.Sprintf("process %d (%s)", r.PID, r.Command)), "the owner")
	}
	if r.Reason != "" {
		x.outcome += " (" + string(r.Reason) + ")"
	}
	if r.Err != nil {
		x.text = text.JoinNonEmpty(": ", x.text, text.Printable(r.Err.Error()))
	}
	return x
}

// label returns the outcome of a row, with the number of its explanation.
func (e *explanations) label(r *hangup.Result) string {
	x := explain(r)
	return x.outcome + e.number(x)
}

func (e *explanations) number(x explanation) string {
	texts := e.texts[x.outcome]
	if i := slices.Index(texts, x.text); i >= 0 && len(texts) > 1 {
		return fmt.Sprintf(" [%d]", i+1)
	}
	return ""
}

func (e *explanations) lines(width int, color bool) []string {
	var lines []string
	for _, x := range e.order {
		lines = append(lines, wrapText(x.outcome+e.number(x)+": "+x.text, " ", "", width, color)...)
	}
	return lines
}

// ownerText returns PID/COMMAND, or "-" without a PID.
func ownerText(pid int, command string) string {
	if pid == 0 {
		return "-"
	}
	return strconv.Itoa(pid) + "/" + text.Printable(command)
}

// summary returns the line below the report.
func summary(report *hangup.Report, direction sockdiag.Direction) string {
	line := cmp.Or(hangup.FormatOutcomes(report.Outcomes()), noMatch)
	if report.Closing > 0 {
		line += "; " + closing(report.Closing)
	}
	line += otherDirection(report.LeftAlone, direction, report.Covered > 0) + unknownOwner(report.UnknownOwner)
	if report.Covered+report.LeftAlone+report.Closing == 0 {
		line += otherOwner(report.OtherOwner)
	}
	if n := report.Unselected[hangup.ReasonEvidence]; n > 0 {
		line += fmt.Sprintf("; %d idle for less than --min-idle", n)
	}
	if report.UnknownOwner > 0 || slices.ContainsFunc(report.Results, func(r hangup.Result) bool { return r.PID == 0 && r.Flow.Inode != 0 }) {
		line += uninspected(report.Unreadable, report.Processes)
	}
	return line + unsearched(report.Unsearched)
}

// noMatch, closing, otherDirection, unknownOwner, otherOwner, uninspected and unsearched are
// parts of the lines below lists and reports.

const noMatch = "no connection matches"

func closing(n int) string {
	if n == 1 {
		return "1 is closed on this side already and waits for its peer"
	}
	return fmt.Sprintf("%d are closed on this side already and wait for their peer", n)
}

// otherDirection returns the flag for n connections that match except for their direction.
func otherDirection(n int, selected sockdiag.Direction, anyMatch bool) string {
	other, verb := sockdiag.Inbound, "accepted"
	if selected == sockdiag.Inbound {
		other, verb = sockdiag.Outbound, "opened"
	}
	switch {
	case n == 0:
		return ""
	case anyMatch:
		return fmt.Sprintf("; %d %s left alone (--direction=%s or either)", n, other, other)
	default:
		return fmt.Sprintf("; %s that this host %s would match with --direction=%s", text.Plural(n, "connection"), verb, other)
	}
}

// unknownOwner is about flows that no owner filter matches.
func unknownOwner(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d of unknown processes left alone", n)
}

// otherOwner is about flows of processes that the owner filter excludes. It is printed if the
// filter selects none: a name may be misspelled.
func otherOwner(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d of other processes left alone", n)
}

func uninspected(unreadable, processes int) string {
	if unreadable == 0 {
		return ""
	}
	return fmt.Sprintf("; %d of %d processes could not be inspected: permission denied; run tcphup probe", unreadable, processes)
}

func unsearched(processes int) string {
	if processes == 0 {
		return ""
	}
	return fmt.Sprintf("; %d processes of other users not searched for lack of time", processes)
}
