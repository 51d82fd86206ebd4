package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// expectedColumns returns the columns of expected.csv.
func expectedColumns() []string {
	columns := []string{"client"}
	for _, s := range situations() {
		columns = append(columns, s.name)
	}
	return columns
}

// absent is the expected cell of a situation that a client does not have.
const absent = "-"

// alternatives separates the results that a cell of expected.csv allows.
const alternatives = " | "

// readExpected returns the expected results by client and situation.
func readExpected(path string) (map[string]map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	reader := csv.NewReader(bytes.NewReader(text))
	reader.Comment = '#'
	lines, err := reader.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(lines) == 0 || !slices.Equal(lines[0], expectedColumns()) {
		return nil, errors.New("the columns are not the situations")
	}
	expected := make(map[string]map[string]string)
	for _, line := range lines[1:] {
		expected[line[0]] = make(map[string]string)
		for i, cell := range line[1:] {
			expected[line[0]][lines[0][i+1]] = cell
		}
	}
	return expected, nil
}

// text returns the result of a client in a situation in the form of expected.csv.
func (t *table) text(c client, s situation) string {
	if !c.has(s.operation) {
		return absent
	}
	return t.cells[c.name][s.name].text()
}

// differences compares the results with the expected ones.
func (t *table) differences(expected map[string]map[string]string) (all []string) {
	for _, c := range t.clients {
		for _, s := range situations() {
			got, want := t.text(c, s), expected[c.name][s.name]
			if want == "" {
				want = "nothing"
			}
			if !slices.Contains(strings.Split(want, alternatives), got) {
				all = append(all, fmt.Sprintf("%s, %s: got %q, want %q", c.name, s.name, got, want))
			}
		}
	}
	for _, d := range t.drains {
		if got := d.text(); got != d.expected {
			all = append(all, fmt.Sprintf("%s: got %q, want %q", d.name(), got, d.expected))
		}
	}
	return all
}

// learned returns expected.csv with the results of this run as further alternatives. Read them
// before they are committed.
func (t *table) learned(path string, expected map[string]map[string]string) ([]byte, error) {
	lines := [][]string{expectedColumns()}
	for _, c := range clients() {
		line := []string{c.name}
		for _, s := range situations() {
			cell := expected[c.name][s.name]
			if t.cells[c.name] != nil {
				got := t.text(c, s)
				switch {
				case t.cells[c.name][s.name].err != nil:
				case cell == "":
					cell = got
				case !slices.Contains(strings.Split(cell, alternatives), got):
					cell += alternatives + got
				}
			}
			line = append(line, cell)
		}
		lines = append(lines, line)
	}
	var out bytes.Buffer
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range bytes.Lines(old) {
		if bytes.HasPrefix(line, []byte("#")) {
			out.Write(line)
		}
	}
	err = csv.NewWriter(&out).WriteAll(lines)
	return out.Bytes(), err
}

// resultColumns are the columns of docs/clients.csv.
var resultColumns = []string{"client", "server", "situation", "result", "freed_seconds", "recovered_seconds", "error"}

// csv returns all results with a description of the machine.
func (t *table) csv() ([]byte, error) {
	lines := [][]string{resultColumns}
	seconds := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) }
	for _, c := range t.clients {
		for _, s := range situations() {
			if !c.has(s.operation) {
				continue
			}
			r := t.cells[c.name][s.name].result
			line := []string{c.name, c.server, s.name, r.text(), "", "", strings.Join(r.errors, " / ")}
			if !r.waiting {
				line[4] = seconds(r.freed)
			}
			if r.recovered {
				line[5] = seconds(r.took)
			}
			lines = append(lines, line)
		}
	}
	for _, d := range t.drains {
		lines = append(lines, []string{d.client.name, d.client.server, d.situation(), d.text(), "", "", ""})
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# %s\n", machine())
	err := csv.NewWriter(&out).WriteAll(lines)
	return out.Bytes(), err
}

// machine describes where and when the results were measured.
func machine() string {
	var name unix.Utsname
	_ = unix.Uname(&name)
	return fmt.Sprintf("Linux %s, %s, %d processors, %s", unix.ByteSliceToString(name.Release[:]), runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly))
}

// finish compares the results with the expected ones and writes them.
func (t *table) finish(o options) error {
	expected, err := readExpected(o.expected)
	if err != nil && !o.learn {
		return fmt.Errorf("read %s: %w", o.expected, err)
	}
	differences := t.differences(expected)
	if o.learn {
		for _, d := range differences {
			progress("%s", d)
		}
		text, err := t.learned(o.expected, expected)
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.expected, text, 0o644); err != nil {
			return err
		}
		differences = nil
	}
	if len(differences) > 0 {
		return fmt.Errorf("%d results differ from %s:\n%s", len(differences), o.expected, strings.Join(differences, "\n"))
	}
	if o.results == "" {
		return nil
	}
	text, err := t.csv()
	if err != nil {
		return err
	}
	return os.WriteFile(o.results, text, 0o644)
}
