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

// dir holds all files of the soak: a tmpfs mounted in the soak's mount namespace only,
// over a directory that exists on all systems.
const dir = "/dev/shm"

// write creates or replaces a file in dir with mode 0600.
func write(name, content string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
}

// program is a child process that runs until it is stopped.
type program struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.Closer
	log     tail
	reading sync.WaitGroup
	stop    sync.Once
	ending  chan struct{} // closed by end before the process is stopped
	ended   chan struct{} // closed after the exit of the process; err is set
	err     error
}

// startIn starts this program under another name in a place.
func (s *soak) startIn(number int, name string, line func([]byte)) error {
	place := s.places[number]
	var attributes *syscall.SysProcAttr
	if name == applicationName && s.hook != nil {
		attributes = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(s.hook.dir.Fd())}
	}
	return place.do(func() error {
		p, err := s.startAs(attributes, "/proc/self/exe", name, line)
		if err != nil {
			return err
		}
		return place.adopt(number, p.cmd.Process.Pid)
	})
}

// start starts a program in dir and calls line for each line of its standard output. An
// unexpected exit fails the soak.
func (s *soak) start(path, name string, line func([]byte), args ...string) (*program, error) {
	return s.startAs(nil, path, name, line, args...)
}

// startAs is start with attributes of the process.
func (s *soak) startAs(attributes *syscall.SysProcAttr, path, name string, line func([]byte), args ...string) (*program, error) {
	p := &program{name: name, cmd: exec.Command(path, args...), ending: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.SysProcAttr = attributes
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
			s.fail(fmt.Errorf("%s exited: %v", name, p.cmd.ProcessState))
		}
	}()
	return p, nil
}

// stopTimeout is longer than the shutdown timeout of any program.
const stopTimeout = 40 * time.Second

// end closes the standard input of a program and sends signal unless it is nil. It returns
// the error of the exit.
func (p *program) end(signal os.Signal) error {
	p.stop.Do(func() {
		close(p.ending)
		_ = p.stdin.Close()
		if signal != nil {
			_ = p.cmd.Process.Signal(signal) // may have exited
		}
	})
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // logs the goroutine stacks
		<-p.ended
		return fmt.Errorf("stop %s: still running after %s", p.name, stopTimeout)
	}
	if p.err != nil {
		return fmt.Errorf("stop %s: %w", p.name, p.err)
	}
	return nil
}

// kill ends a program that is still running and waits for its exit.
func (p *program) kill() {
	p.stop.Do(func() { close(p.ending) })
	_ = p.cmd.Process.Kill() // may have exited
	<-p.ended
}

// tail is a writer that keeps the last tailSize bytes.
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
