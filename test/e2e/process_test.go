package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// process is a program that runs until the test ends.
type process struct {
	t   testing.TB
	cmd *exec.Cmd
	log string
	// exited is closed after the exit; err is valid from then on.
	exited chan struct{}
	err    error
}

func startProcess(t testing.TB, name string, args ...string) *process {
	t.Helper()
	return startCommand(t, exec.Command(name, args...))
}

func startProcessAs(t *testing.T, attr *syscall.SysProcAttr, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = attr
	return startCommand(t, cmd)
}

// startCommand starts a command. Its output goes to a log, which a failed test prints; a preset
// standard output is kept.
func startCommand(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, log: filepath.Join(t.TempDir(), "log"), exited: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stderr = log
	if p.cmd.Stdout == nil {
		p.cmd.Stdout = log
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			b, err := os.ReadFile(p.log)
			t.Logf("log of %v (%v):\n%s", cmd, err, b)
		}
	})
	return p
}

// logged returns the output of the process so far.
func (p *process) logged() string {
	p.t.Helper()
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// wait waits for the exit and returns its error.
func (p *process) wait() error {
	<-p.exited
	return p.err
}

// stop sends SIGTERM, waits for the exit and returns its error.
func (p *process) stop() error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.exited:
		return p.err
	case <-time.After(nstest.HangGuard):
		p.t.Fatalf("process still running %v after SIGTERM", nstest.HangGuard)
		return nil
	}
}

// kill sends SIGKILL and waits for the exit.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.exited
}
