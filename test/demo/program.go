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

// The programs, under the names that Debian gives them.
const (
	dnsmasqProgram      = "dnsmasq"
	prometheusProgram   = "prometheus"
	alertmanagerProgram = "prometheus-alertmanager"
)

// dir holds every file of the demo: a tmpfs of its own over a directory that all
// systems have, in the demo's mount namespace alone.
const dir = "/dev/shm"

// write makes or replaces a file that is for root alone.
func write(name, content string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
}

// program runs until it is stopped or the demo ends.
type program struct {
	cmd  *exec.Cmd
	log  string // file with all that it has printed
	stop func() // returns when it has ended
}

// start runs a program in the directory of the demo. When it ends by itself, so does
// the demo.
func (s *stage) start(name string, args ...string) (*program, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	// Names are looked up in the DNS of the demo, whatever nsswitch.conf says.
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
		_ = cmd.Wait() // its state says how it ended
		select {
		case <-stopping:
		default:
			s.fail(fmt.Errorf("%s has ended: %v", filepath.Base(name), cmd.ProcessState))
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

// showLogs prints what the programs have said last: the files end with the demo.
func (s *stage) showLogs() {
	const last = 2000
	for _, p := range s.programs {
		text, _ := os.ReadFile(p.log) // without it there is nothing to show
		fmt.Fprintf(os.Stderr, "%s: %s\n", filepath.Base(p.log), text[max(0, len(text)-last):])
	}
}

// await looks again and again until a condition holds; the end of the context is an
// error.
func await(ctx context.Context, what string, condition func() bool) error {
	for !condition() {
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}
