package main

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed report.md.tmpl
var reportText string

// report is all that was measured, and on what.
type report struct {
	Sizes  []int
	Rounds int
	Parts  []string // lines of go test -bench

	Kernel, Processor, Cores, Date, Version string
	Iproute2, NodeExporter                  string // empty: is not there
	MPTCP, Destroy                          bool
	LeftOut                                 []string
	Old                                     string // version of the earlier program; empty without one

	Readings []*reading
	HangUps  []*hangUps
	Alerts   []*alerts
}

// leaveOut says that somebody does not take part, and why.
func (r *report) leaveOut(who, why string) {
	r.LeftOut = append(r.LeftOut, who+": "+why)
	progress("left out: %s: %s", who, why)
}

// describe says on what everything is measured.
func (r *report) describe(o options) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	r.Kernel = unix.ByteSliceToString(name.Release[:])
	r.Cores = strconv.Itoa(runtime.NumCPU())
	r.Date = time.Now().UTC().Format(time.DateOnly)
	r.Processor = "processor unknown"
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	if m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(info); m != nil {
		r.Processor = string(m[1])
	}
	if r.Version, err = versionOf(o.tcphup); err != nil {
		return err
	}
	if o.old != "" {
		if r.Old, err = versionOf(o.old); err != nil {
			return err
		}
	}
	if r.Iproute2, err = run("ss", "-V"); err != nil {
		return err
	}
	r.Iproute2 = strings.TrimSpace(strings.TrimPrefix(r.Iproute2, "ss utility, "))
	if _, err := exec.LookPath(nodeExporterProgram); err != nil {
		r.leaveOut(exporterName, "there is no "+nodeExporterProgram+"; on Debian and Ubuntu, apt-get install "+nodeExporterProgram)
	} else {
		version, err := run(nodeExporterProgram, "--version")
		if err != nil {
			return err
		}
		r.NodeExporter = "a version that it does not tell"
		if m := regexp.MustCompile(`version (\S+?),? `).FindStringSubmatch(version); m != nil {
			r.NodeExporter = m[1]
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		r.leaveOut("MPTCP connections", err.Error())
		return nil
	}
	r.MPTCP = true
	return unix.Close(fd)
}

// versionOf returns the version that a tcphup prints.
func versionOf(path string) (string, error) {
	out, err := run(path, "--version")
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`version (\S+)`).FindStringSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s --version prints no version: %q", path, out)
	}
	return m[1], nil
}

// write prints the report, and writes it and the series to a directory if there is one.
func (r *report) write(docs string) error {
	text, err := template.New("report").Funcs(template.FuncMap{
		"thousands": thousands, "times": times,
	}).Parse(reportText)
	if err != nil {
		return err
	}
	var page bytes.Buffer
	if err := text.Execute(&page, r); err != nil {
		return err
	}
	fmt.Print(page.String())
	if docs == "" {
		return nil
	}
	series, err := r.series()
	return errors.Join(err,
		os.WriteFile(filepath.Join(docs, "benchmarks.md"), page.Bytes(), 0o644),
		os.WriteFile(filepath.Join(docs, "benchmarks.csv"), series, 0o644))
}

// series is what the plot shows: every reader at every load with many destinations.
func (r *report) series() ([]byte, error) {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	lines := [][]string{{"reader", "sockets", "milliseconds", "megabytes"}}
	for _, name := range readers {
		for _, reading := range r.Readings {
			if len(reading.results[name]) == 0 || reading.Destinations != manyDestinations(reading.Sockets) {
				continue
			}
			lines = append(lines, []string{name, strconv.Itoa(reading.Sockets), ms(median(reading.of(name, wall))), megabytes(reading.memory(name))})
		}
	}
	err := w.WriteAll(lines)
	return out.Bytes(), err
}

// readParts returns the results in a file that go test -bench has written; none of no
// file.
func readParts(path string) (parts []string, err error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "Benchmark") && strings.Contains(line, "\t") {
			parts = append(parts, strings.TrimSpace(line))
		}
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("no results in %s", path)
	}
	return parts, nil
}
