package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// markdown has 8 words of prose, one of them an idiom in line 10.
const markdown = `# A title

<!-- begin table: written by make docs -->
nobody says
<!-- end table -->

` + "```" + `
nobody says
` + "```" + `
It says ` + "`what is`" + ` [here](nobody.md).

| a | b |
`

// TestRun checks separate rows for program, tests and documents, that only comments and prose
// count, and that a count above the limit fails.
func TestRun(t *testing.T) {
	root := t.TempDir()
	for name, content := range map[string]string{
		"a.go":          "// Package a tells what it does.\npackage a\n\nconst s = \"nobody says\" // two words\n",
		"a_test.go":     "// Package a returns values.\npackage a\n",
		"testdata/b.go": "// nobody\npackage b\n",
		"c.md":          markdown,
		"dist/c.md":     "nobody\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	counts, err := countTree(root)
	if err != nil {
		t.Fatal(err)
	}
	if counts.program.words != 8 || counts.tests.words != 4 || counts.documents.words != 8 {
		t.Errorf("got %d words of the program, %d of tests and %d of documents, want 8, 4 and 8",
			counts.program.words, counts.tests.words, counts.documents.words)
	}
	if want := []string{filepath.Join(root, "c.md") + ":10: say"}; !slices.Equal(counts.documents.lines, want) {
		t.Errorf("got %q, want %q", counts.documents.lines, want)
	}
	for i, want := range []float64{125, 0, 0, 125} {
		if got := counts.program.per1000(i); got != want {
			t.Errorf("%s: got %v per 1,000 words, want %v", idioms[i].name, got, want)
		}
		if got := counts.tests.per1000(i); got != 0 {
			t.Errorf("tests, %s: got %v per 1,000 words, want 0", idioms[i].name, got)
		}
	}
	for limit, want := range map[float64]bool{0: true, 124: false, 125: true} {
		var out strings.Builder
		if ok, err := run(&out, []string{root}, limit, true); err != nil || ok != want {
			t.Errorf("limit %v: got %v, %v, want %v\n%s", limit, ok, err, want, out.String())
		}
	}
	if _, err := run(&strings.Builder{}, nil, 0, false); err == nil {
		t.Error("no directory: no error")
	}
}
