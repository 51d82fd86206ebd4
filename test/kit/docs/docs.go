// Package docs checks and rewrites documentation generated from the code.
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

var update = flag.Bool("update", false, "rewrite generated documentation")

// Check compares a region of a file with want. The flag -update rewrites the region.
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
			t.Errorf("outdated, run `make docs` (-want +got):\n%s", diff)
		}
	})
}

// cutRegion returns the text between the marks of a region. before and after include the
// marks.
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
		t.Fatalf("%s lacks the lines\n%s%s", file, begin, end)
	}
	return before + begin, inside, end + after
}

// Table returns a Markdown table.
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

// Code returns text as a Markdown code span, or "" for empty text.
func Code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
