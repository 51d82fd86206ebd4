package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// soak runs a short soak of the binary tcphup and returns its output.
func soak(t *testing.T, tcphup string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), build(t, "soak"), append([]string{"-duration=10s", "-scrape-timeout=1m", "-tcphup=" + tcphup}, args...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// TestPrivilegedSoak checks that a short run exercises everything and that all invariants
// hold. A verdict on memory needs a longer run.
func TestPrivilegedSoak(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const old, churn = "# Soak\n\nold\n", "\n## Churn\n\nkept\n"
		written, _ := completeSoak(t, old+"\n## Node agent\n\nkept\n"+churn)
		if !strings.HasSuffix(written, "\nAll invariants held.\n\n## Node agent\n\nkept\n"+churn) || strings.Contains(written, "old") {
			t.Errorf("report:\n%s", written)
		}
	})
}

// TestPrivilegedSoakNode does the same for a node agent.
func TestPrivilegedSoakNode(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const old, churn = "# Soak\n\nkept\n", "\n## Churn\n\nkept\n"
		written, stdout := completeSoak(t, old+churn, "-node")
		if !strings.HasPrefix(written, old+"\n## Node agent\n") || !strings.HasSuffix(written, "\nAll invariants held.\n"+churn) {
			t.Errorf("report:\n%s", written)
		}
		if !regexp.MustCompile(`(?m)^pods  +3 in 2 namespaces`).MatchString(stdout) {
			t.Error("no row of pods")
		}
	})
}

// completeSoak runs a soak that holds, and returns its report, written over another one, and
// its output.
func completeSoak(t *testing.T, old string, args ...string) (written, stdout string) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "soak.md")
	if err := os.WriteFile(report, []byte(old), 0o644); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := soak(t, program.Path(t), append(args, "-report="+report)...)
	t.Logf("%s%s", stdout, stderr)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	const some, none = `[1-9]\d*`, `0`
	for name, want := range map[string]string{
		"descriptor hogs":                      some + " processes of another user, .*",
		`getpeername\(2\) rewritten by BPF`:    "(for " + some + " connections|not possible here: .+)",
		"connections opened":                   some,
		"connections that could not be opened": none,
		"closed by the applications":           some,
		"hung up":                              some,
		"wrong targets":                        none,
		"bystanders lost":                      none,
		"listeners lost":                       none + " of " + some,
		"alerts":                               some + `, \d+ retries .*`,
		"response to an alert":                 `median \d+\.\d+ s, slowest \d+\.\d+ s; .*`,
		"alerts lost":                          none,
		"scrapes":                              some,
		"scrapes failed outside of faults":     none,
		"reloads":                              some + ", " + some + " with an invalid file",
		"pauses":                               some,
		"failovers of the service":             some,
		"swaps of two names":                   some,
		"faults":                               some + ": .*",
		"audit records":                        some,
		"descriptors":                          `run too short: first \d+\.\d, .*`,
	} {
		if !regexp.MustCompile(`(?m)^` + name + `  +` + want + `$`).MatchString(stdout) {
			t.Errorf("%s: want %s", name, want)
		}
		if !regexp.MustCompile(`(?m)^\| ` + name + ` \| ` + want + ` \|$`).Match(text) {
			t.Errorf("%s: want %s in the file:\n%s", name, want, text)
		}
	}
	return string(text), stdout
}

// TestPrivilegedSoakFails checks that the soak detects a hung-up bystander.
func TestPrivilegedSoakFails(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		tcphup := program.Path(t)
		wrapper := filepath.Join(t.TempDir(), "tcphup")
		// Hangs up a bystander until the soak ends: an application may close a connection at the
		// moment of a hang-up and not notice.
		script := fmt.Sprintf("#!/bin/sh\n(while kill -0 $$; do %[1]s 127.0.1.2 8080; sleep 0.2; done) </dev/null >/dev/null 2>&1 &\nexec %[1]s \"$@\"\n", tcphup)
		if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, err := soak(t, wrapper)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("want exit code 1: %v", err)
		}
		if !strings.Contains(stderr, "\n  bystander lost: 127.0.1.2:8080 (IPv4) from 127.0.1.1:") || regexp.MustCompile(`(?m)^bystanders lost +0$`).MatchString(stdout) {
			t.Errorf("output:\n%s%s", stdout, stderr)
		}
		if strings.Contains(stderr, "wrong target") || strings.Contains(stderr, "alert lost:") {
			t.Errorf("another invariant was violated too:\n%s", stderr)
		}
	})
}
