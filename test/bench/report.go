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

// report has all results and the environment of a run.
type report struct {
	Sizes  []int
	Rounds int
	Parts  []string // lines of go test -bench

	Kernel, Processor, Cores, Date, Version string
	Iproute2, NodeExporter                  string // versions; empty: not installed
	MPTCP, Destroy                          bool
	Skipped                                 []string
	Old                                     string // version of the earlier program; empty: none

	Idle      []*idle
	Readings  []*reading
	OneFamily []*reading
	HangUps   []*hangUps
	Alerts    []*alerts
	Nodes     []*node
}

// skip records that a program is not measured.
func (r *report) skip(name, reason string) {
	r.Skipped = append(r.Skipped, name+": "+reason)
	progress("skipped: %s: %s", name, reason)
}

// describe records kernel, processor and versions.
func (r *report) describe(o options) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	r.Kernel = unix.ByteSliceToString(name.Release[:])
	r.Cores = strconv.Itoa(runtime.NumCPU())
	r.Date = time.Now().UTC().Format(time.DateOnly)
	r.Processor = "unknown processor"
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
		r.skip(exporterName, nodeExporterProgram+" not found; on Debian and Ubuntu: apt-get install "+nodeExporterProgram)
	} else {
		version, err := run(nodeExporterProgram, "--version")
		if err != nil {
			return err
		}
		r.NodeExporter = "of unknown version"
		if m := regexp.MustCompile(`version (\S+?),? `).FindStringSubmatch(version); m != nil {
			r.NodeExporter = m[1]
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		r.skip("MPTCP connections", err.Error())
		return nil
	}
	r.MPTCP = true
	return unix.Close(fd)
}

// versionOf returns the version that `tcphup --version` prints, or "unknown" for a binary
// that was built without one.
func versionOf(path string) (string, error) {
	out, err := run(path, "--version")
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`version (\S+)`).FindStringSubmatch(out)
	if m == nil {
		return "unknown", nil
	}
	return m[1], nil
}

// write prints the report. With a directory, it writes the report and the series there.
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

// series returns the data of the plot as CSV: every reader at every load with many
// destinations.
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

// readParts returns the result lines in a file with the output of go test -bench; nil for
// an empty path.
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
		return nil, fmt.Errorf("read %s: no benchmark results", path)
	}
	return parts, nil
}
