package command

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Styles do not change the alignment, and the last column has no padding.
func TestTableLines(t *testing.T) {
	table := &table{header: []string{"NAME", ">N", "REST"}}
	if got := table.lines(true); got != nil {
		t.Errorf("an empty table has the lines %q", got)
	}
	table.add(cell{"käse", red}, cell{"1", dim}, cell{text: "x"})
	table.add(cell{text: "a"}, cell{text: "1000"}, cell{text: "a longer rest"})
	want := []string{"NAME     N  REST", "käse     1  x", "a     1000  a longer rest"}
	if diff := cmp.Diff(want, table.lines(false)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = []string{
		"\x1b[1mNAME\x1b[0m     \x1b[1mN\x1b[0m  \x1b[1mREST\x1b[0m",
		"\x1b[31mkäse\x1b[0m     \x1b[2m1\x1b[0m  x",
		"a     1000  a longer rest",
	}
	if diff := cmp.Diff(want, table.lines(true)); diff != "" {
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
