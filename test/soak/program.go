package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// dir holds every file of the soak: a tmpfs of its own over a directory that all
// systems have, in the soak's mount namespace alone.
const dir = "/dev/shm"

// write makes or replaces a file that is for root alone.
func write(name, content string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
}

// program runs until it is stopped.
type program struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.Closer
	log     tail
	reading sync.WaitGroup
	stop    sync.Once
	ending  chan struct{} // closed before it is stopped
	ended   chan struct{} // closed when it has ended, after err is set
	err     error
}

// start runs a program in the directory of the soak, and calls line for each line
// that it prints. When it ends by itself, so does the soak.
func (s *soak) start(path, name string, line func([]byte), args ...string) (*program, error) {
	p := &program{name: name, cmd: exec.Command(path, args...), ending: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Args[0] = name
	p.cmd.Dir = dir
	p.cmd.Stderr = &p.log
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	s.programs = append(s.programs, p)
	p.reading.Go(func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			line(lines.Bytes())
		}
	})
	go func() {
		p.reading.Wait()
		p.err = p.cmd.Wait()
		close(p.ended)
		select {
		case <-p.ending:
		default:
			s.fail(fmt.Errorf("%s has ended: %v", name, p.cmd.ProcessState))
		}
	}()
	return p, nil
}

// stopTimeout is longer than any of the programs gives itself.
const stopTimeout = 40 * time.Second

// end stops a program by the end of its standard input, or by a signal, and returns
// how it ended.
func (p *program) end(signal os.Signal) error {
	p.stop.Do(func() {
		close(p.ending)
		_ = p.stdin.Close()
		if signal != nil {
			_ = p.cmd.Process.Signal(signal) // it may have ended
		}
	})
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its log then says what it did
		<-p.ended
		return fmt.Errorf("%s did not end within %s", p.name, stopTimeout)
	}
	if p.err != nil {
		return fmt.Errorf("%s ended: %w", p.name, p.err)
	}
	return nil
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4000

func (t *tail) Write(text []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, text...)
	if len(t.text) > 2*tailSize {
		t.text = append(t.text[:0], t.text[len(t.text)-tailSize:]...)
	}
	return len(text), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text[max(0, len(t.text)-tailSize):])
}
