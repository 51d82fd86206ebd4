package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// report has the content of docs/clients.csv.
type report struct {
	machine string
	records []record // in the order of the file
}

// record is the result of a client in a situation.
type record struct {
	client, server, situation, result string
	freed                             float64 // seconds; negative: still waiting, or not measured
}

// readReport reads docs/clients.csv.
func readReport(path string) (*report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	lines, err := csv.NewReader(bytes.NewReader(rest)).ReadAll()
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(first, []byte("# ")) || len(lines) < 2 || !slices.Equal(lines[0], resultColumns) {
		return nil, errors.New("no results")
	}
	r := &report{machine: string(first[2:])}
	for _, line := range lines[1:] {
		one := record{line[0], line[1], line[2], line[3], -1}
		if line[4] != "" {
			if one.freed, err = strconv.ParseFloat(line[4], 64); err != nil {
				return nil, err
			}
		}
		r.records = append(r.records, one)
	}
	return r, nil
}

// clients returns the names of the clients.
func (r *report) clients() (names []string) {
	for _, one := range r.records {
		if !slices.Contains(names, one.client) {
			names = append(names, one.client)
		}
	}
	return names
}

// find returns the result of a client in a situation.
func (r *report) find(client, situation string) (record, bool) {
	i := slices.IndexFunc(r.records, func(one record) bool { return one.client == client && one.situation == situation })
	if i < 0 {
		return record{}, false
	}
	return r.records[i], true
}

// seen returns the result for the application, without the outcomes.
func (r record) seen() string {
	var parts []string
	for part := range strings.SplitSeq(r.result, "; ") {
		if !strings.Contains(part, " by ") && !strings.HasPrefix(part, "refused (") && part != "no match" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "; ")
}

// has reports whether a part of the result is this one.
func (r record) has(part string) bool { return slices.Contains(strings.Split(r.result, "; "), part) }

// with returns the clients whose result in a situation has a part.
func (r *report) with(situation, part string) (names []string) {
	for _, one := range r.records {
		if one.situation == situation && one.has(part) {
			names = append(names, one.client)
		}
	}
	return names
}

// count returns the number of clients that ran in a situation.
func (r *report) count(situation string) (n int) {
	for _, one := range r.records {
		if one.situation == situation {
			n++
		}
	}
	return n
}

// results returns a table of the results of tcphup.
func (r *report) results() (header []string, rows [][]string) {
	header = []string{"client", "server", "idle", "request", "mid-body", "silent, idle", "silent, request"}
	for _, name := range r.clients() {
		row := []string{name, ""}
		for _, s := range situations() {
			if s.action != withTcphup || s.failsOver() {
				continue
			}
			one, ok := r.find(name, s.name)
			if ok {
				row[1] = one.server
			}
			row = append(row, one.result)
		}
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	return header, rows
}

// controls returns a table of what differs when the server closes.
func (r *report) controls() (header []string, rows [][]string) {
	header = []string{"client", "situation", "tcphup", "server closes"}
	for _, name := range r.clients() {
		for _, situation := range []string{"idle", "request", "mid-body"} {
			hungUp, ran := r.find(name, situation+", tcphup")
			control, _ := r.find(name, situation+", server closes")
			if ran && hungUp.seen() != control.seen() {
				rows = append(rows, []string{name, situation, hungUp.seen(), control.seen()})
			}
		}
	}
	return header, rows
}

// times returns a table of how long clients wait.
func (r *report) times() (header []string, rows [][]string) {
	columns := []string{"request, tcphup", "mid-body, tcphup", silentTcphup, silentSS, silentNothing}
	header = []string{"client", "request", "mid-body", "silent, tcphup", "silent, ss -K", "silent, nothing"}
	for _, name := range r.clients() {
		row := []string{name}
		for _, column := range columns {
			row = append(row, r.time(name, column))
		}
		if strings.Join(row[1:], "") != "" {
			rows = append(rows, row)
		}
	}
	return header, rows
}

func (r *report) time(client, situation string) string {
	one, ok := r.find(client, situation)
	switch {
	case !ok:
		return ""
	case one.has(stillWaiting):
		return fmt.Sprintf("> %.0f", defaultBound.Seconds())
	}
	return fmt.Sprintf("%.2f", one.freed)
}

// drained returns a table of the drains.
func (r *report) drained() (header []string, rows [][]string) {
	for _, one := range r.records {
		if strings.HasSuffix(one.situation, "drain") {
			rows = append(rows, []string{one.client, one.server, one.situation, one.result})
		}
	}
	return []string{"client", "server", "", "result"}, rows
}

// failovers returns a table of the failovers: an operation of a situation.
func (r *report) failovers(operation string) (header []string, rows [][]string) {
	header = []string{"client", "with tcphup", "seconds", "without", "seconds"}
	for _, name := range r.clients() {
		hungUp, ran := r.find(name, operation+", "+withTcphup)
		alone, _ := r.find(name, operation+", "+nothing)
		if ran {
			rows = append(rows, []string{name, hungUp.result, servedAfter(hungUp), alone.result, servedAfter(alone)})
		}
	}
	return header, rows
}

func servedAfter(one record) string {
	if !one.served() {
		return fmt.Sprintf("> %.0f", failoverBound.Seconds())
	}
	return fmt.Sprintf("%.0f", one.freed)
}

// served reports whether the new site has served the client.
func (r record) served() bool { return strings.HasPrefix(r.result, "served") }
