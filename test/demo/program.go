package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Debian's names of the binaries.
const (
	dnsmasqProgram      = "dnsmasq"
	prometheusProgram   = "prometheus"
	alertmanagerProgram = "prometheus-alertmanager"
)

// dir holds all files of the demo: a tmpfs mounted in the demo's mount namespace only,
// over a directory that exists on all systems.
const dir = "/dev/shm"

// write creates or replaces a file in dir with mode 0600.
func write(name, content string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
}

// program is a child process that runs until stop or the end of the demo.
type program struct {
	cmd  *exec.Cmd
	log  string // file with its output
	stop func() // sends SIGTERM and waits for the exit
}

// start starts a program in dir. Its unexpected exit fails the demo.
func (s *stage) start(name string, args ...string) (*program, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	// Go's resolver uses the DNS of the demo, regardless of nsswitch.conf.
	cmd.Env = append(os.Environ(), "GODEBUG=netdns=go")
	log, err := os.Create(filepath.Join(dir, filepath.Base(name)+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &program{cmd: cmd, log: log.Name()}
	stopping, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // ProcessState has the result
		select {
		case <-stopping:
		default:
			s.fail(fmt.Errorf("%s exited: %v", filepath.Base(name), cmd.ProcessState))
		}
	}()
	p.stop = func() {
		close(stopping)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}
	s.programs = append(s.programs, p)
	return p, nil
}

// showLogs prints the end of each program's log, since the files end with the demo.
func (s *stage) showLogs() {
	const last = 2000
	for _, p := range s.programs {
		text, _ := os.ReadFile(p.log) // best effort
		fmt.Fprintf(os.Stderr, "%s: %s\n", filepath.Base(p.log), text[max(0, len(text)-last):])
	}
}

// await polls until a condition holds; the end of ctx is an error.
func await(ctx context.Context, what string, condition func() bool) error {
	for !condition() {
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}
