package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"tcphup/test/kit/docs"
)

// TestDocs compares docs/clients.md, its pictures and the README with docs/clients.csv. With -update it
// writes them.
func TestDocs(t *testing.T) {
	r, err := readReport("../../docs/clients.csv")
	if err != nil {
		t.Fatal(err)
	}
	const page = "../../docs/clients.md"
	docs.Check(t, page, "summary", r.summary())
	docs.Check(t, page, "results", docs.Table(r.results()))
	docs.Check(t, page, "times", docs.Table(r.times()))
	docs.Check(t, page, "controls", docs.Table(r.controls()))
	docs.Check(t, page, "failovers", docs.Table(r.failovers(failover)))
	docs.Check(t, page, "demoted", docs.Table(r.failovers(demoted)))
	docs.Check(t, page, "drains", docs.Table(r.drained()))
	docs.Check(t, "../../README.md", "clients", r.readme())
	checkPicture(t, "../../docs/clients.svg", r.figure())
	checkPicture(t, "../../docs/clients-summary.svg", r.curves())
	if names := r.clients(); len(names) != len(clients()) {
		t.Errorf("results of %d clients, want %d", len(names), len(clients()))
	}
}

// checkPicture compares a file with the picture, which must be XML.
func checkPicture(t *testing.T, file string, want []byte) {
	t.Helper()
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from the results", file)
	}
	for d := xml.NewDecoder(bytes.NewReader(got)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// Each client has an expected result in each situation that it has, and in no other.
func TestExpected(t *testing.T) {
	expected, err := readExpected("expected.csv")
	if err != nil {
		t.Fatal(err)
	}
	if len(expected) != len(clients()) {
		t.Errorf("%d clients are expected, want %d", len(expected), len(clients()))
	}
	for _, name := range failoverClients() {
		if !slices.ContainsFunc(clients(), func(c client) bool { return c.name == name }) {
			t.Errorf("no client %q fails over", name)
		}
	}
	for _, c := range clients() {
		if ports()[c.server] == 0 {
			t.Errorf("%s: no server %q", c.name, c.server)
		}
		for _, s := range situations() {
			if cell := expected[c.name][s.name]; cell == "" || (cell == absent) == c.has(s.operation) || strings.Contains(cell, "did not run") {
				t.Errorf("%s, %s: %q is expected", c.name, s.name, cell)
			}
		}
	}
}

// A result that differs from each alternative of its cell is a difference.
func TestDifferences(t *testing.T) {
	c := clients()[0]
	all := make(map[string]cell)
	expected := make(map[string]string)
	for _, s := range situations() {
		all[s.name] = cell{result: result{recovered: true}}
		expected[s.name] = "1 error | 0 errors"
	}
	run := &table{clients: []client{c}, cells: map[string]map[string]cell{c.name: all}}
	if d := run.differences(map[string]map[string]string{c.name: expected}); len(d) > 0 {
		t.Errorf("got differences %q", d)
	}
	for name, wrong := range map[string]cell{
		"another result":  {result: result{recovered: true, truncated: true}},
		"not recovered":   {},
		"untrue outcome":  {result: result{recovered: true, untrue: true}},
		"error":           {err: errors.New("no")},
		"process ended":   {result: result{recovered: true, dead: true}},
		"waits":           {result: result{waiting: true}},
		"unused":          {result: result{recovered: true, unused: true}},
		"another outcome": {result: result{recovered: true, outcomes: []string{"closed by destroy"}}},
	} {
		all[situations()[3].name] = wrong
		if d := run.differences(map[string]map[string]string{c.name: expected}); len(d) != 1 {
			t.Errorf("%s: got differences %q, want one", name, d)
		}
	}
	all[situations()[3].name] = cell{result: result{recovered: true}}
	run.drains = []*drain{{client: c, expected: "0 of 20 cut", cut: 1}}
	if d := run.differences(map[string]map[string]string{c.name: expected}); len(d) != 1 {
		t.Errorf("a cut request: got differences %q, want one", d)
	}
}

func TestConfirms(t *testing.T) {
	for outcome, wrong := range map[string][]string{
		"closed":      {"ESTAB", "FIN-WAIT-1", "FIN-WAIT-2"},
		"half_closed": {"ESTAB", "FIN-WAIT-1"},
		"lingering":   {"ESTAB", "FIN-WAIT-2"},
		"refused":     {"closed", "FIN-WAIT-2"},
	} {
		for _, state := range wrong {
			if confirms(outcome, state) {
				t.Errorf("%s is confirmed by %s", outcome, state)
			}
		}
	}
	if !slices.ContainsFunc([]string{"closed", "TIME-WAIT"}, func(s string) bool { return confirms("closed", s) }) {
		t.Error("closed is never confirmed")
	}
}
