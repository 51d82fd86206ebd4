package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the security review says to be shown by a test is shown by one that exists.
func TestSecurityReviewNamesTests(t *testing.T) {
	review, err := os.ReadFile(filepath.Join("docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]bool)
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err = filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, found := range declaration.FindAllStringSubmatch(string(source), -1) {
			there[found[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w*)`").FindAllStringSubmatch(string(review), -1)
	if len(named) < 50 || len(there) < 100 {
		t.Errorf("%d tests are named, of %d", len(named), len(there))
	}
	for _, name := range named {
		if !there[name[1]] {
			t.Errorf("docs/security.md names %s, which does not exist", name[1])
		}
	}
	// A row of a table ends with its test.
	for line := range strings.Lines(string(review)) {
		if strings.Count(line, "|") == 5 && !strings.Contains(line, "`Test") && !strings.HasPrefix(line, "| who") && !strings.HasPrefix(line, "| ---") {
			t.Errorf("docs/security.md shows nothing for %s", line)
		}
	}
}
