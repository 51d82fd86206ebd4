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

// report is what a run has shown, as a table.
type report struct {
	options
	date   time.Time
	before string // load of the machine before the run
	rows   [][2]string
}

func newReport(o options) *report { return &report{options: o, date: time.Now(), before: load()} }

// write prints the table, and writes it to the file that was asked for.
func (r *report) write(s *soak, broken error) error {
	r.fill(s)
	fmt.Printf("%s\n\n", r.setting())
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
	fmt.Fprintf(&b, "# Soak\n\n`make soak DURATION=%s` lets tcphup work under a load that never rests.\n", short(r.duration))
	fmt.Fprintf(&b, "What it does, and how it judges: [test/soak/](../test/soak/main.go).\n\n%s\n\n| | |\n| --- | --- |\n", r.setting())
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], row[1])
	}
	verdict := "Every promise was kept."
	if broken != nil {
		verdict = "```\n" + broken.Error() + "\n```"
	}
	fmt.Fprintf(&b, "\n%s\n", verdict)
	return os.WriteFile(r.report, b.Bytes(), 0o644)
}

// setting says where and when the run was.
func (r *report) setting() string {
	kernel := "unknown"
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	return fmt.Sprintf("%s, %s long: Linux %s, %s, %d cores; load average %s before and %s after, that of other work on the machine included.",
		r.date.UTC().Format(time.DateOnly), short(r.duration), kernel, runtime.GOARCH, runtime.NumCPU(), r.before, load())
}

// short writes a duration as people do: 10m for 10m0s.
func short(d time.Duration) string {
	text := strings.TrimSuffix(d.String(), "m0s")
	if text != d.String() {
		text += "m"
	}
	return text
}

// load is the load average of the last minute.
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
	sum := s.judge.sum()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judge.mu.Lock()
	defer s.judge.mu.Unlock()
	victims := 0
	for i := range destinations {
		if destinations[i].victim() {
			victims++
		}
	}
	c := &s.counts
	r.add("load", "%d applications, %d connections at a time to %d victims and %d bystanders; IPv4, IPv6, IPv4-mapped, MPTCP",
		applications, applications*sessionsPerDestination()*len(destinations), victims, len(destinations)-victims)
	r.add("connections opened", "%d", sum.Opened)
	r.add("connections that could not be opened", "%d", sum.Failed)
	r.add("closed by the applications", "%d", sum.Closed)
	r.add("hung up", "%d", s.judge.hungUp)
	r.add("wrong victims", "%d", s.judge.wrong)
	r.add("bystanders lost", "%d", s.judge.bystanders)
	r.add("listeners lost", "%d of %d", c.listenersLost, c.listeners)
	r.add("alerts", "%d, %d retries after 503 or no answer, %d repeats for flows that were still there", c.alerts.sent, c.alerts.retried, c.alerts.repeated)
	r.add("alerts lost", "%d", c.alerts.lost)
	r.add("alerts that may close nothing", "%d", c.alerts.harmless)
	r.add("scrapes", "%d", c.scrapes)
	r.add("scrapes failed outside of faults", "%d", c.scrapesFailed)
	r.add("reloads", "%d, %d of them of a broken file", c.reloads, c.broken)
	r.add("pauses", "%d", c.pauses)
	r.add("failovers of the service", "%d", c.failovers)
	r.add("faults", "%d: stopped for 2 s; lookups fail for 5 s; 20 scrapers, 20 senders of alerts that leave in the middle", c.faults)
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
			verdict = "too short a run to tell"
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
