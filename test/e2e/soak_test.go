package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// soak builds the soak and lets a program work under it for a short time. How long a
// scrape takes beside all the other tests is not its question.
func soak(t *testing.T, program string, args ...string) result {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "soak")
	nstest.Command(t, "go", "build", "-o", binary, "tcphup/test/soak")
	return runFor(t, 2*time.Minute, nil, binary, append([]string{"-duration=15s", "-scrape-timeout=30s", "-tcphup=" + program}, args...)...)
}

// Everything that the soak does is done in a short run too, and every promise kept.
// Whether memory stays flat takes a longer one.
func TestPrivilegedSoak(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		report := filepath.Join(t.TempDir(), "soak.md")
		r := soak(t, os.Getenv(binaryVariable), "-report="+report)
		t.Logf("%s%s", r.stdout, r.stderr)
		r.mustExit(t, 0)
		written, err := os.ReadFile(report)
		if err != nil {
			t.Fatal(err)
		}
		const some, none = `[1-9]\d*`, `0`
		for name, want := range map[string]string{
			"connections opened":                   some,
			"connections that could not be opened": none,
			"closed by the applications":           some,
			"hung up":                              some,
			"wrong victims":                        none,
			"bystanders lost":                      none,
			"listeners lost":                       none + " of " + some,
			"alerts":                               some + `, \d+ retries .*`,
			"alerts lost":                          none,
			"scrapes":                              some,
			"scrapes failed outside of faults":     none,
			"reloads":                              some + ", " + some + " of them of a broken file",
			"pauses":                               some,
			"failovers of the service":             some,
			"faults":                               some + ": .*",
			"audit records":                        some,
			"descriptors":                          `too short a run to tell: first \d+\.\d, .*`,
		} {
			if !regexp.MustCompile(`(?m)^` + name + `  +` + want + `$`).MatchString(r.stdout) {
				t.Errorf("%s: want %s", name, want)
			}
			if !regexp.MustCompile(`(?m)^\| ` + name + ` \| ` + want + ` \|$`).Match(written) {
				t.Errorf("%s: want %s in the file:\n%s", name, want, written)
			}
		}
		if !strings.HasSuffix(string(written), "\nEvery promise was kept.\n") {
			t.Errorf("the file says:\n%s", written)
		}
	})
}

// A tcphup that hangs up a bystander does not get away with it.
func TestPrivilegedSoakFails(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		tcphup := os.Getenv(binaryVariable)
		program := filepath.Join(t.TempDir(), "tcphup")
		script := fmt.Sprintf("#!/bin/sh\n(sleep 4; %s 127.0.1.2 8080) </dev/null >/dev/null 2>&1 &\nexec %s \"$@\"\n", tcphup, tcphup)
		if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		r := soak(t, program)
		r.mustExit(t, 1)
		if !strings.Contains(r.stderr, "\n  bystander lost: 127.0.1.2:8080 (IPv4) from 127.0.1.1:") || regexp.MustCompile(`(?m)^bystanders lost +0$`).MatchString(r.stdout) {
			t.Errorf("it says:\n%s%s", r.stdout, r.stderr)
		}
		if strings.Contains(r.stderr, "wrong victim") || strings.Contains(r.stderr, "lost: about") {
			t.Errorf("another promise was broken too:\n%s", r.stderr)
		}
	})
}
