package command

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcphup/hangup"
	"tcphup/internal/text"
)

type reportJSON struct {
	Flows     []hangup.ResultJSON    `json:"flows"`
	Outcomes  map[hangup.Outcome]int `json:"outcomes"` // all outcomes, those of no flow too
	LeftAlone int                    `json:"other_direction_left_alone"`
}

func writeJSON(w io.Writer, report *hangup.Report) error {
	out := reportJSON{Flows: []hangup.ResultJSON{}, Outcomes: make(map[hangup.Outcome]int), LeftAlone: report.LeftAlone}
	for _, o := range hangup.Outcomes() {
		out.Outcomes[o] = report.Count(o)
	}
	for i := range report.Results {
		out.Flows = append(out.Flows, report.Results[i].JSON())
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(out)
}

func writeTable(w io.Writer, report *hangup.Report) error {
	t := &table{header: []string{"LOCAL", "REMOTE", "PROTOCOL", "STATE", "IDLE", "OWNER", "METHOD", "OUTCOME", "WHY"}}
	for i := range report.Results {
		r := &report.Results[i]
		t.add(cell{text: r.Flow.Local.String()}, cell{text: r.Flow.Remote.String()}, cell{text: r.Flow.Protocol.String()},
			cell{text: r.Flow.State.String()}, cell{text: idleText(r)}, cell{text: owner(r)},
			cell{text: string(r.Method)}, cell{text: string(r.Outcome)}, cell{text: why(r)})
	}
	return t.write(w, false)
}

func idleText(r *hangup.Result) string {
	idle, known := r.Flow.Idle()
	if !known {
		return "-"
	}
	return idle.Round(100 * time.Millisecond).String()
}

func owner(r *hangup.Result) string {
	if r.PID == 0 {
		return "-"
	}
	return strconv.Itoa(r.PID) + "/" + text.Printable(r.Command)
}

func why(r *hangup.Result) string {
	var parts []string
	if r.Reason != "" {
		parts = append(parts, string(r.Reason))
	}
	if r.Detail != "" {
		parts = append(parts, text.Printable(r.Detail))
	}
	if r.Err != nil {
		parts = append(parts, text.Printable(r.Err.Error()))
	}
	if r.Reconnect != nil {
		parts = append(parts, reconnectText(r))
	}
	return strings.Join(parts, ": ")
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

// summary is one line about the whole action.
func summary(report *hangup.Report) string {
	var parts []string
	for _, o := range hangup.Outcomes() {
		if n := report.Count(o); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, o))
		}
	}
	s := "no flow matches"
	if len(parts) > 0 {
		s = strings.Join(parts, ", ")
	}
	if report.LeftAlone > 0 {
		s += fmt.Sprintf("; %d of the other direction left alone (--direction)", report.LeftAlone)
	}
	if n := report.Covered - len(report.Results); n > 0 {
		s += fmt.Sprintf("; %d not idle for as long as --min-idle", n)
	}
	if report.Unreadable > 0 && slices.ContainsFunc(report.Results, func(r hangup.Result) bool { return r.PID == 0 && r.Flow.Inode != 0 }) {
		s += fmt.Sprintf("; %d of %d processes kept their descriptors secret (tcphup probe says why)", report.Unreadable, report.Processes)
	}
	return s
}
