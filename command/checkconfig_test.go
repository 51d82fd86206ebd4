package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Warnings are on stderr and do not fail the command.
func TestCheckConfigWarns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tcphup.yml")
	content := "policies:\n  - name: a\n    match: [\"team='web'\"]\n    allow: [10.0.0.1]\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	c := &checkConfig{file: file, stdout: &stdout, stderr: &stderr}
	if err := c.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := file + ": valid; policies: 1, services: 0, never rules: 0\n"; stdout.String() != want {
		t.Errorf("stdout %q, want %q", stdout.String(), want)
	}
	want := "warning: " + file + `:3: match: the quotes in team='web' are part of the label's name or value: write team="web"` + "\n"
	if stderr.String() != want {
		t.Errorf("stderr %q, want %q", stderr.String(), want)
	}
}

// The output says that policies with namespaces need node mode.
func TestCheckConfigOfNode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tcphup.yml")
	content := "policies: [{name: a, match: ['team=web'], allow: [10.0.0.1], namespaces: [shop]}]\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	c := &checkConfig{file: file, stdout: &stdout, stderr: &stderr}
	if err := c.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := file + ": valid with serve --node only; policies: 1, services: 0, never rules: 0\n"; stdout.String() != want || stderr.Len() > 0 {
		t.Errorf("got %q, %q; want %q", stdout.String(), stderr.String(), want)
	}
}
