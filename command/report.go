package command

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"tcphup/hangup"
	"tcphup/internal/text"
)

type reportJSON struct {
	Flows     []hangup.ResultJSON    `json:"flows"`
	Outcomes  map[hangup.Outcome]int `json:"outcomes"` // includes outcomes with 0 flows
	Spared    map[hangup.Reason]int  `json:"spared,omitempty"`
	LeftAlone int                    `json:"other_direction_left_alone"`
	Unread    []netnsErrorJSON       `json:"netns_errors,omitempty"`
}

func writeJSON(w io.Writer, report *hangup.Report) error {
	out := reportJSON{Flows: []hangup.ResultJSON{}, Outcomes: make(map[hangup.Outcome]int), Spared: report.Spared(), LeftAlone: report.LeftAlone, Unread: netnsErrorsJSON(report.NamespaceErrors)}
	for _, o := range hangup.Outcomes() {
		out.Outcomes[o] = report.Count(o)
	}
	for i := range report.Results {
		out.Flows = append(out.Flows, report.Results[i].JSON())
	}
	return printJSON(w, out)
}

func writeTable(w io.Writer, report *hangup.Report) error {
	t := &table{header: []string{"LOCAL", "REMOTE", "PROTOCOL", "STATE", "IDLE", "OWNER", "METHOD", "OUTCOME", "WHY"}}
	netns := make([]string, len(report.Results))
	for i := range report.Results {
		r := &report.Results[i]
		netns[i] = r.Namespace
		t.add(cell{text: r.Flow.Local.String()}, cell{text: r.Flow.Remote.String()}, cell{text: r.Flow.Protocol.String()},
			cell{text: r.Flow.State.String()}, cell{text: idleText(r)}, cell{text: ownerText(r.PID, r.Command)},
			cell{text: string(r.Method)}, cell{text: string(r.Outcome)}, cell{text: why(r)})
	}
	return t.addNetns(netns).write(w, false)
}

func idleText(r *hangup.Result) string {
	idle, known := r.Flow.Idle()
	if !known {
		return "-"
	}
	return idle.Round(100 * time.Millisecond).String()
}

// ownerText returns PID/COMMAND, or "-" without a PID.
func ownerText(pid int, command string) string {
	if pid == 0 {
		return "-"
	}
	return strconv.Itoa(pid) + "/" + text.Printable(command)
}

func why(r *hangup.Result) string {
	parts := []string{string(r.Reason), text.Printable(r.Detail)}
	if r.Err != nil {
		parts = append(parts, text.Printable(r.Err.Error()))
	}
	if r.Reconnect != nil {
		parts = append(parts, reconnectText(r))
	}
	return text.JoinNonEmpty(": ", parts...)
}

func reconnectText(r *hangup.Result) string {
	after := r.Reconnect.After.Round(time.Millisecond)
	switch {
	case !r.Reconnect.Remote.IsValid():
		return fmt.Sprintf("no reconnect seen in %s", after)
	case r.Reconnect.SameAddress(&r.Flow):
		return fmt.Sprintf("RECONNECTED TO THE SAME ADDRESS after %s", after)
	default:
		return fmt.Sprintf("reconnected to %s after %s", r.Reconnect.Remote, after)
	}
}

// summary returns the line below the report.
func summary(report *hangup.Report) string {
	line := cmp.Or(hangup.FormatOutcomes(report.Outcomes()), noMatch) + otherDirection(report.LeftAlone)
	if n := report.Unselected[hangup.ReasonEvidence]; n > 0 {
		line += fmt.Sprintf("; %d idle for less than --min-idle", n)
	}
	if slices.ContainsFunc(report.Results, func(r hangup.Result) bool { return r.PID == 0 && r.Flow.Inode != 0 }) {
		line += uninspected(report.Unreadable, report.Processes)
	}
	return line + unsearched(report.Unsearched)
}

// noMatch, otherDirection, uninspected and unsearched are parts of the lines below lists and reports.

const noMatch = "no connection matches"

func otherDirection(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d in the other direction left alone (--direction)", n)
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
