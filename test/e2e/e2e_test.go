// Package e2e tests the tcphup binary with real applications, Prometheus and Alertmanager.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(goClientVariable); url != "" {
		goClient(url)
		return
	}
	if os.Getenv(drainServerVariable) != "" {
		drainServer()
		return
	}
	if url := os.Getenv(drainClientVariable); url != "" {
		drainClient(url)
		return
	}
	os.Exit(program.Main(m))
}

// result is the output and exit code of a program.
type result struct {
	stdout, stderr string
	exit           int
}

// tcphup runs the binary under test and waits for its exit.
func tcphup(t testing.TB, args ...string) result {
	t.Helper()
	return runProgram(t, nil, program.Path(t), args...)
}

func runProgram(t testing.TB, as *syscall.Credential, name string, args ...string) result {
	t.Helper()
	return runAs(t, &syscall.SysProcAttr{Credential: as}, name, args...)
}

// runAs runs a program as another user or with other capabilities and waits for its exit.
func runAs(t testing.TB, attr *syscall.SysProcAttr, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), nstest.HangGuard)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = attr
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.exit = exit.ExitCode()
	case err != nil:
		t.Fatalf("run %s %v: %v", name, args, err)
	}
	return r
}

// mustExit fails the test unless the exit code matches.
func (r result) mustExit(t testing.TB, exit int) {
	t.Helper()
	if r.exit != exit {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.exit, exit, r.stdout, r.stderr)
	}
}

// need returns the path of a program. A missing program fails the test; -short skips it.
func need(t testing.TB, name, debianPackage string) string {
	t.Helper()
	if testing.Short() {
		t.Skipf("runs %s; skipped under -short", name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s not found: apt-get install %s", name, debianPackage)
	}
	return path
}
