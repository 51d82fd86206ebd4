package command

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func textOf(t *table, width int, color bool) string {
	l := t.layout(width, color)
	return strings.Join(slices.Concat(l.header, l.rows, l.below), "\n")
}

// Styles do not change the alignment, and the last column has no padding.
func TestTableLines(t *testing.T) {
	table := &table{columns: []column{{name: "NAME"}, {name: "N", right: true}, {name: "REST"}}}
	if got := textOf(table, 0, true); got != "" {
		t.Errorf("an empty table has the lines %q", got)
	}
	table.add(cell{"käse", red}, cell{"1", dim}, cell{text: "x"})
	table.add(cell{text: "a"}, cell{text: "1000"}, cell{text: "a longer rest"})
	want := "NAME     N  REST\nkäse     1  x\na     1000  a longer rest"
	if diff := cmp.Diff(want, textOf(table, 0, false)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = "\x1b[1mNAME\x1b[0m     \x1b[1mN\x1b[0m  \x1b[1mREST\x1b[0m\n\x1b[31mkäse\x1b[0m     \x1b[2m1\x1b[0m  x\na     1000  a longer rest"
	if diff := cmp.Diff(want, textOf(table, 0, true)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTableWithoutHeader(t *testing.T) {
	plain := new(table)
	plain.add(cell{text: "a"}, cell{}, cell{text: "x"})
	plain.add(cell{}, cell{text: "bcd"}, cell{text: "y"})
	var b strings.Builder
	if err := plain.write(&b, false); err != nil || b.String() != "a       x\n   bcd  y\n" {
		t.Errorf("without a header: %q, %v", b.String(), err)
	}
}

// What fits into a width: values that all rows have are printed once, then addresses are
// shortened to ports, then optional columns are left out from the right, then rows continue
// on a second line. Without a width nothing is lost.
func TestTableWidth(t *testing.T) {
	table := &table{columns: []column{
		{name: "LOCAL", port: true}, {name: "REMOTE", shared: 2}, {name: "OWNER", shared: 2}, {name: "QUEUE", right: true, optional: true}, {name: "STATE", optional: true},
		{name: "TIMER", shared: 1, none: "no timer"},
	}}
	table.add(cell{text: "10.20.0.9:40001"}, cell{text: "10.30.0.5:5432"}, cell{text: "1/java"}, cell{text: "0"}, cell{text: "established"}, cell{text: "-"})
	for _, tt := range []struct {
		width int
		want  string
	}{
		{0, "LOCAL            REMOTE          OWNER   QUEUE  STATE\n10.20.0.9:40001  10.30.0.5:5432  1/java      0  established\nno timer"},
		{59, "LOCAL            REMOTE          OWNER   QUEUE  STATE\n10.20.0.9:40001  10.30.0.5:5432  1/java      0  established\nno timer"},
		{58, "LOCAL            REMOTE          OWNER   QUEUE\n10.20.0.9:40001  10.30.0.5:5432  1/java      0\nno timer\nnot shown in 58 columns, but with | cat: STATE"},
		{24, "LOCAL\n  REMOTE          OWNER\n10.20.0.9:40001\n  10.30.0.5:5432  1/java\nno timer\nnot shown in 24 columns, but with | cat:\n  QUEUE, STATE"},
	} {
		if diff := cmp.Diff(tt.want, textOf(table, tt.width, false)); diff != "" {
			t.Errorf("one row, width %d (-want +got):\n%s", tt.width, diff)
		}
	}
	table.add(cell{text: "10.20.0.9:40002"}, cell{text: "10.30.0.5:5432"}, cell{text: "1/java"}, cell{text: "7"}, cell{text: "fin_wait2"}, cell{text: "-"})
	for _, tt := range []struct {
		width int
		want  string
	}{
		{0, "LOCAL            QUEUE  STATE\n10.20.0.9:40001      0  established\n10.20.0.9:40002      7  fin_wait2\nall 2: remote 10.30.0.5:5432, owner 1/java, no timer"},
		{30, "LOCAL   QUEUE  STATE\n:40001      0  established\n:40002      7  fin_wait2\nall 2: remote 10.30.0.5:5432,\n  owner 1/java, no timer,\n  local address 10.20.0.9"},
	} {
		if diff := cmp.Diff(tt.want, textOf(table, tt.width, false)); diff != "" {
			t.Errorf("two rows, width %d (-want +got):\n%s", tt.width, diff)
		}
	}
	for width := 26; width < 100; width++ {
		for line := range strings.Lines(textOf(table, width, false)) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("width %d: %d columns: %q", width, n, line)
			}
		}
	}
}
