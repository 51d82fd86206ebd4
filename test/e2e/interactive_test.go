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

// interactive is a child process with line-based input and output that runs until the test
// ends.
type interactive struct {
	t     *testing.T
	stdin io.WriteCloser
	lines chan string
}

func startInteractive(t *testing.T, cmd *exec.Cmd) *interactive {
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
	p := &interactive{t: t, stdin: stdin, lines: make(chan string, 16)}
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			p.lines <- scanner.Text()
		}
	}()
	return p
}

// line waits for the next line of output.
func (p *interactive) line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatal("program exited")
		}
		return line
	case <-time.After(nstest.HangGuard):
		p.t.Fatalf("no line of output for %v", nstest.HangGuard)
		return ""
	}
}
