package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"tcphup/actuator"
	"tcphup/internal/text"
)

// flowJSON is one flow of a report. Numbers that may exceed 2^53 are strings.
type flowJSON struct {
	Local       string         `json:"local"`
	Remote      string         `json:"remote"`
	Protocol    string         `json:"protocol"`
	Direction   string         `json:"direction"`
	State       string         `json:"state"`
	Cookie      string         `json:"cookie"`
	Inode       uint32         `json:"inode"`
	IdleSeconds *float64       `json:"idle_seconds,omitempty"`
	PID         int            `json:"pid,omitempty"`
	Command     string         `json:"command,omitempty"`
	Paths       []string       `json:"paths,omitempty"`
	Method      string         `json:"method"`
	Outcome     string         `json:"outcome"`
	Reason      string         `json:"reason,omitempty"`
	Detail      string         `json:"detail,omitempty"`
	Error       string         `json:"error,omitempty"`
	TookSeconds float64        `json:"took_seconds,omitempty"`
	Reconnect   *reconnectJSON `json:"reconnect,omitempty"`
}

// reconnectJSON says where the application went next; an empty remote means that
// nothing was seen for the time given.
type reconnectJSON struct {
	Remote       string  `json:"remote,omitempty"`
	SameAddress  bool    `json:"same_address"`
	AfterSeconds float64 `json:"after_seconds"`
}

type reportJSON struct {
	Flows     []flowJSON     `json:"flows"`
	Outcomes  map[string]int `json:"outcomes"`
	LeftAlone int            `json:"other_direction_left_alone"`
}

func writeJSON(w io.Writer, report *actuator.Report) error {
	out := reportJSON{Flows: []flowJSON{}, Outcomes: make(map[string]int), LeftAlone: report.LeftAlone}
	for _, o := range actuator.Outcomes() {
		out.Outcomes[string(o)] = report.Count(o)
	}
	for i := range report.Results {
		out.Flows = append(out.Flows, toJSON(&report.Results[i]))
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(out)
}

func toJSON(r *actuator.Result) flowJSON {
	f := flowJSON{
		Local:       r.Flow.Local.String(),
		Remote:      r.Flow.Remote.String(),
		Protocol:    r.Flow.Protocol.String(),
		Direction:   r.Direction.String(),
		State:       r.Flow.State.String(),
		Cookie:      strconv.FormatUint(r.Flow.Cookie, 10),
		Inode:       r.Flow.Inode,
		PID:         r.PID,
		Command:     r.Command,
		Method:      string(r.Method),
		Outcome:     string(r.Outcome),
		Reason:      string(r.Reason),
		Detail:      r.Detail,
		TookSeconds: r.Took.Seconds(),
	}
	if idle, known := r.Flow.Idle(); known {
		seconds := idle.Seconds()
		f.IdleSeconds = &seconds
	}
	for i := range r.Subflows {
		f.Paths = append(f.Paths, r.Subflows[i].Local.String()+" > "+r.Subflows[i].Remote.String())
	}
	if r.Err != nil {
		f.Error = r.Err.Error()
	}
	if r.Reconnect != nil {
		f.Reconnect = &reconnectJSON{AfterSeconds: r.Reconnect.After.Seconds()}
		if r.Reconnect.Remote.IsValid() {
			f.Reconnect.Remote = r.Reconnect.Remote.String()
			f.Reconnect.SameAddress = r.Reconnect.Remote.Addr() == r.Flow.Remote.Addr()
		}
	}
	return f
}

func writeTable(w io.Writer, report *actuator.Report) error {
	if len(report.Results) == 0 {
		return nil
	}
	buffered := bufio.NewWriter(w) // a tabwriter writes cells one by one
	table := tabwriter.NewWriter(buffered, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "LOCAL\tREMOTE\tPROTOCOL\tSTATE\tIDLE\tOWNER\tMETHOD\tOUTCOME\tWHY")
	for i := range report.Results {
		r := &report.Results[i]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Flow.Local, r.Flow.Remote, r.Flow.Protocol, r.Flow.State,
			idleText(r), owner(r), r.Method, r.Outcome, why(r))
	}
	return errors.Join(table.Flush(), buffered.Flush())
}

func idleText(r *actuator.Result) string {
	idle, known := r.Flow.Idle()
	if !known {
		return "-"
	}
	return idle.Round(100 * time.Millisecond).String()
}

func owner(r *actuator.Result) string {
	if r.PID == 0 {
		return "-"
	}
	return strconv.Itoa(r.PID) + "/" + text.Printable(r.Command)
}

func why(r *actuator.Result) string {
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

func reconnectText(r *actuator.Result) string {
	after := r.Reconnect.After.Round(time.Millisecond)
	switch {
	case !r.Reconnect.Remote.IsValid():
		return fmt.Sprintf("no reconnect seen in %s", after)
	case r.Reconnect.Remote.Addr() == r.Flow.Remote.Addr():
		return fmt.Sprintf("RECONNECTED TO THE SAME ADDRESS after %s", after)
	default:
		return fmt.Sprintf("reconnected to %s after %s", r.Reconnect.Remote, after)
	}
}

// summary is one line about the whole action.
func summary(report *actuator.Report) string {
	var parts []string
	for _, o := range actuator.Outcomes() {
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
	if report.Unreadable > 0 && slices.ContainsFunc(report.Results, func(r actuator.Result) bool { return r.PID == 0 && r.Flow.Inode != 0 }) {
		s += fmt.Sprintf("; %d of %d processes kept their descriptors secret (tcphup probe says why)", report.Unreadable, report.Processes)
	}
	return s
}
