package tools

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestVersion checks that versions increase with every commit, before, at and after a release
// tag, in dpkg's order.
func TestVersion(t *testing.T) {
	root := t.TempDir()
	script, err := os.ReadFile("version.sh")
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{"VERSION": "0.9.3\n", "tools/version.sh": string(script)} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	committed := time.Date(2026, 11, 25, 22, 59, 58, 0, time.FixedZone("", 3600))
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = root
		date := committed.Format(time.RFC3339)
		cmd.Env = append(os.Environ(), "HOME="+root, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_DATE="+date, "GIT_COMMITTER_DATE="+date,
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	version := func() string { return run("tools/version.sh") }

	if got := version(); got != "0.9.3" {
		t.Errorf("without git: %s", got)
	}
	run("git", "init", "--quiet")
	run("git", "add", ".")
	var versions []string
	commit := func() {
		run("git", "commit", "--quiet", "--allow-empty", "--message=commit")
		versions = append(versions, version())
		committed = committed.Add(time.Second)
	}
	commit()
	if want := "0.9.3~git20261125215958."; !strings.HasPrefix(versions[0], want) {
		t.Errorf("got %s, want %sCOMMIT", versions[0], want)
	}
	commit()
	commit()
	run("git", "tag", "v0.9.3")
	versions = append(versions, version())
	if got := versions[3]; got != "0.9.3" {
		t.Errorf("tagged: %s", got)
	}
	commit()
	commit()
	if err := os.WriteFile(filepath.Join(root, "VERSION"), []byte("0.9.4\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := version(); !strings.HasSuffix(got, ".dirty") {
		t.Errorf("with changed files: %s", got)
	}
	run("git", "add", ".")
	commit()
	for i := range versions[1:] {
		run("dpkg", "--compare-versions", versions[i], "lt", versions[i+1])
	}
	t.Log(versions)
}
