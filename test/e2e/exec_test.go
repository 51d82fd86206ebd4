package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNeverExecutes checks that no package of the binary links code to execute a program.
func TestNeverExecutes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds tcphup; skipped under -short")
	}
	binary := filepath.Join(t.TempDir(), "tcphup")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", binary, "tcphup")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	symbols, err := exec.CommandContext(t.Context(), "go", "tool", "nm", binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(symbols)) {
		if fields := strings.Fields(line); len(fields) == 3 {
			names = append(names, fields[2])
		}
	}
	// Guards against an unexpected format of the symbol names.
	for _, used := range []string{"main.main", "golang.org/x/sys/unix.Shutdown", "syscall.openat"} {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, used) }) {
			t.Errorf("%s not found in %d symbols", used, len(names))
		}
	}
	executes := regexp.MustCompile(`^(os/exec|plugin)\.|^os\.StartProcess|^syscall\.(Exec|ForkExec|StartProcess|forkExec|forkAndExecInChild|execve)|/sys/unix\.Exec`)
	for _, name := range names {
		if executes.MatchString(name) {
			t.Errorf("binary links %s", name)
		}
	}
}
