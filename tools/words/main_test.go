package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRun checks separate rows for program and tests, that only comments count, and that a count
// above the limit fails.
func TestRun(t *testing.T) {
	root := t.TempDir()
	for name, content := range map[string]string{
		"a.go":          "// Package a tells what it does.\npackage a\n\nconst s = \"nobody says\" // two words\n",
		"a_test.go":     "// Package a returns values.\npackage a\n",
		"testdata/b.go": "// nobody\npackage b\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	program, tests, err := countTree(root)
	if err != nil {
		t.Fatal(err)
	}
	if program.words != 8 || tests.words != 4 {
		t.Errorf("got %d words of the program and %d of tests, want 8 and 4", program.words, tests.words)
	}
	for i, want := range []float64{125, 0, 0, 125} {
		if got := program.per1000(i); got != want {
			t.Errorf("%s: got %v per 1,000 words, want %v", idioms[i].name, got, want)
		}
		if got := tests.per1000(i); got != 0 {
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
