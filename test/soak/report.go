package main

import (
	"bytes"
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

const churnTitle = "\n## Churn\n"

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
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Soak\n\n`make soak DURATION=%s` runs tcphup under continuous load and checks its invariants.\n", short(r.duration))
	fmt.Fprintf(&b, "Load and checks are described in [test/soak/](../test/soak/main.go).\n\n%s\n\n| | |\n| --- | --- |\n", r.environment())
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], row[1])
	}
	verdict := "All invariants held."
	if broken != nil {
		verdict = "```\n" + broken.Error() + "\n```"
	}
	fmt.Fprintf(&b, "\n%s\n", verdict)
	// The numbers of make churn stay.
	if old, err := os.ReadFile(r.report); err == nil {
		if _, churn, found := bytes.Cut(old, []byte(churnTitle)); found {
			fmt.Fprintf(&b, "%s%s", churnTitle, churn)
		}
	}
	return os.WriteFile(r.report, b.Bytes(), 0o644)
}

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
		applications, applications*sessionsPerDestination()*len(destinations), targets, len(destinations)-targets)
	r.add("connections opened", "%d", sum.Opened)
	r.add("connections that could not be opened", "%d", sum.Failed)
	r.add("closed by the applications", "%d", sum.Closed)
	r.add("hung up", "%d", s.checker.hungUp)
	r.add("wrong targets", "%d", s.checker.wrong)
	r.add("bystanders lost", "%d", s.checker.bystanders)
	r.add("listeners lost", "%d of %d", c.listenersLost, c.listeners)
	r.add("alerts", "%d, %d retries after 503 or no response, %d repeats for flows still open", c.alerts.sent, c.alerts.retried, c.alerts.repeated)
	r.add("alerts lost", "%d", c.alerts.lost)
	r.add("alerts that must not close flows", "%d", c.alerts.harmless)
	r.add("scrapes", "%d", c.scrapes)
	r.add("scrapes failed outside of faults", "%d", c.scrapesFailed)
	r.add("reloads", "%d, %d with an invalid file", c.reloads, c.broken)
	r.add("pauses", "%d", c.pauses)
	r.add("failovers of the service", "%d", c.failovers)
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

func sessionsPerDestination() (n int) {
	for _, h := range habits {
		n += h.sessions
	}
	return n
}
