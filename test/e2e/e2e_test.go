// Package e2e runs the real binary against real applications, Prometheus and
// Alertmanager.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// binaryVariable hands the path of the binary under test to the processes that
// run the tests in namespaces of their own.
const binaryVariable = "TCPHUP_E2E_BINARY"

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
	if os.Getenv(binaryVariable) != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "tcphup-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	exit := build(dir)
	if exit == 0 {
		exit = m.Run()
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		exit = 1
	}
	os.Exit(exit)
}

// build makes the binary under test the way `make build` does, readable for every
// user.
func build(dir string) int {
	binary := filepath.Join(dir, "tcphup")
	arguments := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", binary}
	if os.Getenv("GOCOVERDIR") != "" {
		arguments = append(arguments, "-cover", "-coverpkg=tcphup/...")
	}
	cmd := exec.Command("go", append(arguments, "tcphup")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := errors.Join(cmd.Run(), os.Chmod(dir, 0o755), os.Setenv(binaryVariable, binary)); err != nil {
		fmt.Fprintln(os.Stderr, "build tcphup:", err)
		return 1
	}
	return 0
}

// result is what a finished program has left.
type result struct {
	stdout, stderr string
	exit           int
	took           time.Duration
}

// tcphup runs the binary under test to its end.
func tcphup(t testing.TB, args ...string) result {
	t.Helper()
	return runProgram(t, nil, os.Getenv(binaryVariable), args...)
}

func runProgram(t testing.TB, as *syscall.Credential, name string, args ...string) result {
	t.Helper()
	return runAs(t, &syscall.SysProcAttr{Credential: as}, name, args...)
}

// runAs runs a program to its end, as another user or with other capabilities.
func runAs(t testing.TB, attr *syscall.SysProcAttr, name string, args ...string) result {
	t.Helper()
	return runFor(t, 30*time.Second, attr, name, args...)
}

// runFor is runAs for a program that may take that long.
func runFor(t testing.TB, long time.Duration, attr *syscall.SysProcAttr, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = attr
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.exit = exit.ExitCode()
	case err != nil:
		t.Fatalf("run %s %v: %v", name, args, err)
	}
	return r
}

// mustExit fails the test unless the program ended with the exit code.
func (r result) mustExit(t testing.TB, exit int) {
	t.Helper()
	if r.exit != exit {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.exit, exit, r.stdout, r.stderr)
	}
}

// need fails the test, and says how to go on, when a program is missing.
func need(t testing.TB, program, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is needed: apt-get install %s", program, debianPackage)
	}
	return path
}
