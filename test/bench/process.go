package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sample is the cost of one turn.
type sample struct {
	wall   time.Duration
	cpu    time.Duration // user and system time of the measured process
	memory int           // resident, in bytes; 0: not read
}

// run runs a program and returns its output, standard error included.
func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// timed runs a program and measures it. Standard output is discarded; standard error is
// part of the returned error.
func timed(name string, args ...string) (sample, error) {
	var stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	start := time.Now()
	err := cmd.Run()
	s := sample{wall: time.Since(start)}
	if err != nil {
		return s, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.String())
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return s, nil
}

// peak runs a program and returns its peak resident memory in bytes and the number of
// lines it printed. It samples VmHWM after each small read: ru_maxrss of a child starts
// at the resident size of this process.
func peak(name string, args ...string) (most, lines int, err error) {
	cmd := exec.Command(name, args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	buffer := make([]byte, 16<<10)
	for n := 0; err == nil; n, err = stdout.Read(buffer) {
		lines += bytes.Count(buffer[:n], []byte("\n"))
		if now, err := status(cmd.Process.Pid, "VmHWM"); err == nil { // absent after the exit
			most = max(most, now)
		}
	}
	if !errors.Is(err, io.EOF) {
		return most, lines, errors.Join(err, cmd.Wait())
	}
	return most, lines, cmd.Wait()
}

// helper is a child process of this binary under another argv[0]. It responds to each
// line with a line and exits at EOF.
type helper struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Reader
}

// startHelper starts a helper, which inherits files as descriptors from 3.
func startHelper(name string, files []*os.File, args ...string) (*helper, error) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = name
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	h := &helper{name: name, cmd: cmd}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.lines = bufio.NewReader(stdout)
	if h.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return h, cmd.Start()
}

// readLine waits for a line and parses values from it.
func (h *helper) readLine(values ...any) error {
	line, err := h.lines.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read from %s: %w", h.name, err)
	}
	_, err = fmt.Sscanln(line, values...)
	return err
}

// request sends a line and parses values from the response.
func (h *helper) request(line string, values ...any) error {
	if _, err := fmt.Fprintln(h.stdin, line); err != nil {
		return fmt.Errorf("write to %s: %w", h.name, err)
	}
	return h.readLine(values...)
}

func (h *helper) stop() error { return errors.Join(h.stdin.Close(), h.cmd.Wait()) }

// server is a process that serves HTTP.
type server struct {
	cmd    *exec.Cmd
	url    string
	log    string // file with its output
	client *http.Client
}

// readyTimeout is far above the start time of a server on an idle machine.
const readyTimeout = 3 * time.Minute

// startServer starts a server and waits until it serves page with status 200.
func startServer(address, page, name string, args ...string) (*server, error) {
	return startServerIn(here, address, page, name, args...)
}

// here calls fn in the network namespace of the bench.
func here(fn func() error) error { return fn() }

// startServerIn starts a server in another network namespace: enter calls fn there.
func startServerIn(enter func(fn func() error) error, address, page, name string, args ...string) (*server, error) {
	log, err := os.CreateTemp(dir, filepath.Base(name)+"-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &server{cmd: exec.Command(name, args...), url: "http://" + address, log: log.Name(), client: clientIn(enter)}
	s.cmd.Dir = dir
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := enter(s.cmd.Start); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(readyTimeout); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.get(page)
		switch {
		case err == nil:
			return s, nil
		case time.Now().After(deadline):
			output, _ := os.ReadFile(s.log) // optional detail
			return nil, errors.Join(fmt.Errorf("%s not ready after %s: %w\n%s", name, readyTimeout, err, output), s.stop())
		}
	}
}

// stop kills the server; its shutdown is not measured.
func (s *server) stop() error {
	err := s.cmd.Process.Kill()
	_ = s.cmd.Wait() // it was killed
	return err
}

var client = clientIn(here)

// clientIn returns a client whose connections are opened in another network namespace. It
// disables compression, which would distort the measurement.
func clientIn(enter func(fn func() error) error) *http.Client {
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = enter(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	return &http.Client{Transport: &http.Transport{DisableCompression: true, DialContext: dial}, Timeout: time.Minute}
}

func (s *server) get(page string) (string, error) {
	response, err := s.client.Get(s.url + page)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s", page, response.Status)
	}
	return string(body), err
}

// scrape measures one GET /metrics and returns its body.
func (s *server) scrape() (sample, string, error) {
	before, err := processorTime(s.cmd.Process.Pid)
	if err != nil {
		return sample{}, "", err
	}
	start := time.Now()
	body, err := s.get("/metrics")
	took := sample{wall: time.Since(start)}
	if err != nil {
		return took, "", err
	}
	after, err := processorTime(s.cmd.Process.Pid)
	if err != nil {
		return took, "", err
	}
	took.cpu = after - before
	took.memory, err = status(s.cmd.Process.Pid, "VmRSS")
	return took, body, err
}

// processorTime returns the processor time of all threads of a process in nanosecond
// resolution, from the clock of clock_getcpuclockid(3).
func processorTime(pid int) (time.Duration, error) {
	const cpuClockSched = 2 // CPUCLOCK_SCHED
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuClockSched), &t); err != nil {
		return 0, fmt.Errorf("read processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// status returns a size from /proc/PID/status in bytes, see proc_pid_status(5): VmRSS is
// the resident size, VmHWM its peak.
func status(pid int, key string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), key+":")
	var kilobytes int
	if _, err := fmt.Sscanf(rest, "%d kB", &kilobytes); err != nil {
		return 0, fmt.Errorf("read %s of process %d: %w", key, pid, err)
	}
	return kilobytes << 10, nil
}

// value returns the value of the sample with this name, labels included.
func value(exposition, name string) (float64, error) {
	for line := range strings.Lines(exposition) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, fmt.Errorf("read sample %s: not found", name)
}
