package e2e

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// partner is a program that a test talks with, line by line, until the test ends.
type partner struct {
	t     *testing.T
	stdin io.WriteCloser
	lines chan string
}

func startPartner(t *testing.T, cmd *exec.Cmd) *partner {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := &partner{t: t, stdin: stdin, lines: make(chan string, 16)}
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			p.lines <- scanner.Text()
		}
	}()
	return p
}

// line waits for the next line of output.
func (p *partner) line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatal("the program has ended")
		}
		return line
	case <-time.After(nstest.HangGuard):
		p.t.Fatalf("timed out after %v: no line of the program", nstest.HangGuard)
		return ""
	}
}
