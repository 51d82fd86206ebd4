package main

import (
	"fmt"
	"slices"
	"strings"
)

// Results of a silent peer.
const (
	silentTcphup  = "silent request, tcphup"
	silentSS      = "silent request, ss -K"
	silentNothing = "silent request, nothing"
	stillWaiting  = "still waiting"
)

// summary returns the results in short, as a list.
func (r *report) summary() string {
	waiting := r.with(silentNothing, stillWaiting)
	var freed []float64
	var late []string
	for _, name := range waiting {
		one, _ := r.find(name, silentTcphup)
		if one.freed < 0 {
			late = append(late, name)
			continue
		}
		freed = append(freed, one.freed)
	}
	slices.Sort(freed)
	var b strings.Builder
	item := func(format string, args ...any) { fmt.Fprintf(&b, "- "+format+"\n", args...) }
	_, rows := r.results()
	item("Measured on %s; %d clients.", r.machine, len(rows))
	item("Silent peer with a request under way: %d of %d clients still wait after %.0f s; the others have a timeout, a heartbeat or a check of their own.", len(waiting), r.count(silentNothing), defaultBound.Seconds())
	if len(freed) > 0 {
		item("With tcphup %d of these %d continue after %.2f s (median; %.2f s at most)%s.", len(freed), len(waiting), freed[len(freed)/2], freed[len(freed)-1], except(late))
	}
	same, of := 0, 0
	for _, name := range r.clients() {
		hungUp, ran := r.find(name, "idle, tcphup")
		control, _ := r.find(name, "idle, server closes")
		if ran {
			of++
			if hungUp.seen() == control.seen() {
				same++
			}
		}
	}
	item("Idle: %d of %d applications get the same result with the next request as after a close by their server.", same, of)
	for _, kind := range []struct{ part, text string }{
		{"part taken for the whole", "Hung up in the middle of a body, these take the part for the whole: %s."},
		{"repeated", "Hung up in the middle of a body, these send the request again by themselves: %s."},
	} {
		if names := r.with("mid-body, tcphup", kind.part); len(names) > 0 {
			item(kind.text, strings.Join(names, ", "))
		}
	}
	if names := r.with("request, tcphup", "repeated"); len(names) > 0 {
		item("Hung up with a request under way, these send it again by themselves: %s.", strings.Join(names, ", "))
	}
	silentErrors := func(situation string) string {
		return fmt.Sprintf("%d of %d", r.count(situation)-len(r.with(situation, "0 errors")), r.count(situation))
	}
	item("Applications with an error after the silent request: %s with tcphup, %s with `ss -K`.", silentErrors(silentTcphup), silentErrors(silentSS))
	for _, name := range r.clients() {
		var ended []string
		for _, one := range r.records {
			if one.client == name && one.has("process ended") {
				ended = append(ended, one.situation)
			}
		}
		if len(ended) > 0 {
			item("The process of %s ended with its connection: %s.", name, strings.Join(ended, "; "))
		}
	}
	item("%s", r.moves())
	return b.String()
}

// moves are the clients of a demoted site that leave it by themselves, after one hang-up, after
// more of them, and never.
type moves struct {
	alone, once  int
	later, never []string
}

func (r *report) moves() (m moves) {
	for _, name := range r.clients() {
		hungUp, ran := r.find(name, demoted+", "+withTcphup)
		control, _ := r.find(name, demoted+", "+nothing)
		switch {
		case !ran:
		case control.served():
			m.alone++
		case hungUp.has("served after 1 hang-up"):
			m.once++
		case hungUp.served():
			m.later = append(m.later, name)
		default:
			m.never = append(m.never, name)
		}
	}
	return m
}

func (m moves) clients() int { return m.alone + m.once + len(m.later) + len(m.never) }

func (m moves) String() string {
	text := fmt.Sprintf("Name changed, old site still serving: %d of %d configurations of clients move to the new site within %.0f min without tcphup, and %d more with tcphup after one hang-up.",
		m.alone, m.clients(), failoverBound.Minutes(), m.once)
	if len(m.later) > 0 {
		text += " After two or more: " + strings.Join(m.later, "; ") + "."
	}
	if len(m.never) > 0 {
		text += " Never: " + strings.Join(m.never, "; ") + "."
	}
	return text
}

// readme returns the results in two sentences, before the figure of the README.
func (r *report) readme() string {
	m := r.moves()
	return fmt.Sprintf(`If only the name moves and the old side still serves, %d of %d configurations of unmodified clients leave it within
%.0f minutes, and with tcphup %d do ([all results](docs/clients.md)). If it goes silent with a request under way, %d clients
continue like this, with tcphup, with `+"`ss -K`"+` and with neither:
`, m.alone, m.clients(), failoverBound.Minutes(), m.clients()-len(m.never), r.count(silentNothing))
}

func except(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; not: " + strings.Join(names, ", ")
}
