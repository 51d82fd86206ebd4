package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// report is the result of a run as a table.
type report struct {
	options
	date   time.Time
	before string // load average before the run
	rows   [][2]string
}

func newReport(o options) *report { return &report{options: o, date: time.Now(), before: load()} }

const (
	nodeTitle  = "\n## Node agent\n"
	churnTitle = "\n## Churn\n" // of make churn
)

// write prints the table and writes it to the file of -report, if set.
func (r *report) write(s *soak, broken error) error {
	r.fill(s)
	fmt.Printf("%s\n\n", r.environment())
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, row := range r.rows {
		fmt.Fprintf(table, "%s\t%s\n", row[0], row[1])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if r.report == "" {
		return nil
	}
	old, err := os.ReadFile(r.report)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(r.report, []byte(r.page(string(old), broken)), 0o644)
}

// page returns the page with the results of this run; the sections of other runs stay.
func (r *report) page(old string, broken error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| | |\n| --- | --- |\n", r.environment())
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], row[1])
	}
	verdict := "All invariants held."
	if broken != nil {
		verdict = "```\n" + broken.Error() + "\n```"
	}
	fmt.Fprintf(&b, "\n%s\n", verdict)
	rest, churn, hasChurn := strings.Cut(old, churnTitle)
	first, node, hasNode := strings.Cut(rest, nodeTitle)
	if r.node {
		hasNode = true
		node = fmt.Sprintf("\n`make soak DURATION=%s NODE=yes`: one agent for several pods; an alert names the namespace of a pod.\n\n%s", short(r.duration), b.String())
	} else {
		first = fmt.Sprintf(head, short(r.duration)) + b.String()
	}
	page := cmp.Or(first, "# Soak\n")
	if hasNode {
		page += nodeTitle + node
	}
	if hasChurn {
		page += churnTitle + churn
	}
	return page
}

const head = "# Soak\n\n" +
	"`make soak DURATION=%s` runs tcphup under continuous load and checks its invariants.\n" +
	"Load and checks are described in [test/soak/](../test/soak/main.go). A hang-up has many short waits for the kernel and\n" +
	"for other threads, after each of which it needs a processor: a slow response on a busy machine is mostly such waiting.\n\n"

// environment describes date, duration and machine of the run.
func (r *report) environment() string {
	kernel := "unknown"
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	return fmt.Sprintf("%s, %s long: Linux %s, %s, %d cores; load average %s before and %s after, other work on the machine included.",
		r.date.UTC().Format(time.DateOnly), short(r.duration), kernel, runtime.GOARCH, runtime.NumCPU(), r.before, load())
}

// short formats a duration without zero seconds: 10m for 10m0s.
func short(d time.Duration) string {
	text := strings.TrimSuffix(d.String(), "m0s")
	if text != d.String() {
		text += "m"
	}
	return text
}

// load returns the load average of the last minute, see proc_loadavg(5).
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}

func (r *report) add(name, format string, args ...any) {
	r.rows = append(r.rows, [2]string{name, fmt.Sprintf(format, args...)})
}

func (r *report) fill(s *soak) {
	sum := s.checker.sum()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checker.mu.Lock()
	defer s.checker.mu.Unlock()
	targets := 0
	for i := range destinations {
		if destinations[i].target() {
			targets++
		}
	}
	c := &s.counts
	r.add("load", "%d applications, %d concurrent connections to %d targets and %d bystanders; IPv4, IPv6, IPv4-mapped, MPTCP",
		applications, applications*sessions(), targets, len(destinations)-targets)
	if s.node {
		r.add("pods", "%d in %d namespaces, with equal addresses and ports", len(s.places), len(namespacesOf(s.places)))
	}
	r.add("descriptor hogs", "%d processes of another user, %d descriptors each, SIGPIPE default", s.hogs(), hogDescriptors)
	if s.hook == nil {
		r.add("getpeername(2) rewritten by BPF", "not possible here: %v", s.hookError)
	} else {
		r.add("getpeername(2) rewritten by BPF", "for %d connections", sum.Hooked)
	}
	r.add("connections opened", "%d", sum.Opened)
	r.add("connections that could not be opened", "%d", sum.Failed)
	r.add("closed by the applications", "%d", sum.Closed)
	r.add("hung up", "%d", s.checker.hungUp)
	r.add("wrong targets", "%d", s.checker.wrong)
	r.add("bystanders lost", "%d", s.checker.bystanders)
	r.add("listeners lost", "%d of %d", c.listenersLost, c.listeners)
	r.add("alerts", "%d, %d retries after 503 or no response, %d repeats for flows still open", c.alerts.sent, c.alerts.retried, c.alerts.repeated)
	r.add("response to an alert", "%s", &c.responses)
	r.add("alerts lost", "%d", c.alerts.lost)
	r.add("alerts that must not close flows", "%d", c.alerts.harmless)
	r.add("scrapes", "%d", c.scrapes)
	r.add("scrapes failed outside of faults", "%d", c.scrapesFailed)
	r.add("reloads", "%d, %d with an invalid file", c.reloads, c.broken)
	r.add("pauses", "%d", c.pauses)
	r.add("failovers of the service", "%d", c.failovers)
	r.add("swaps of two names", "%d", s.swaps)
	r.add("faults", "%d: SIGSTOP for 2 s; failing lookups for 5 s; 20 aborted scrapes; 20 aborted alert posts", c.faults)
	r.add("audit records", "%d", c.records)
	r.add("processor time of tcphup", "%.1f s, %.1f %% of one core", c.cpu, 100*c.cpu/time.Since(s.begun).Seconds())
	for _, t := range s.trends.all() {
		if len(t.levels) == 0 {
			continue
		}
		first, last := t.levels[0].value, t.levels[len(t.levels)-1].value
		verdict := "flat"
		switch decided, err := t.flat(); {
		case !decided:
			verdict = "run too short"
		case err != nil:
			verdict = "**not flat**"
		}
		r.add(t.name, "%s: first %.1f%s, last %.1f%s; slope of the second half %+.2f%s an hour, drift %+.2f%s (at most %s)", verdict,
			first*t.scale, t.unit, last*t.scale, t.unit, t.slope()*3600*t.scale, t.unit, t.drift()*t.scale, t.unit, t.limit())
	}
}

// sessions returns the number of concurrent connections of one application.
func sessions() (n int) {
	for i := range destinations {
		for _, h := range destinations[i].habits() {
			n += h.sessions
		}
	}
	return n
}
