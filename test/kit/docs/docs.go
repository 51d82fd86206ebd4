// Package docs checks and rewrites the parts of the documentation that tests make from
// the code.
package docs

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the tables that make docs writes")

// Check compares a region of a file with want. With the flag -update it rewrites the
// region.
func Check(t *testing.T, file, region, want string) {
	t.Helper()
	t.Run(filepath.Base(file)+"/"+region, func(t *testing.T) {
		before, got, after := cutRegion(t, file, region)
		if *update {
			if err := os.WriteFile(file, []byte(before+want+after), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("rewrite it with `make docs` (-want +got):\n%s", diff)
		}
	})
}

// cutRegion returns the text between the marks of a region, and the text around it with
// the marks.
func cutRegion(t *testing.T, file, region string) (before, inside, after string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- begin "+region+": written by make docs -->\n\n", "\n<!-- end "+region+" -->\n"
	before, rest, hasBegin := strings.Cut(string(content), begin)
	inside, after, hasEnd := strings.Cut(rest, end)
	if !hasBegin || !hasEnd {
		t.Fatalf("%s has not the lines\n%s%s", file, begin, end)
	}
	return before + begin, inside, end + after
}

// Table returns a table in Markdown.
func Table(header []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) {
		for _, cell := range cells {
			b.WriteString(strings.TrimRight("| "+strings.ReplaceAll(cell, "|", `\|`), " ") + " ")
		}
		b.WriteString("|\n")
	}
	line(header)
	line(slices.Repeat([]string{"---"}, len(header)))
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

// Code returns the text as code in Markdown; "" stays empty.
func Code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
