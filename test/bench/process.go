package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sample is what one turn has cost.
type sample struct {
	wall   time.Duration
	cpu    time.Duration // of the process that does the work, user and system
	memory int           // resident, in bytes; 0 when it was not read
}

// run runs a program to its end and returns what it has printed.
func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// timed runs a program to its end and throws away what it prints, unless it fails.
func timed(name string, args ...string) (sample, error) {
	var complaint strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &complaint
	start := time.Now()
	err := cmd.Run()
	s := sample{wall: time.Since(start)}
	if err != nil {
		return s, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, complaint.String())
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return s, nil
}

// peak runs a program to its end and returns how much memory it held at its most, and
// how many lines it printed. It looks after each of many small reads: what the kernel
// tells after the end (ru_maxrss) is no less than this process holds.
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
		if now, err := status(cmd.Process.Pid, "VmHWM"); err == nil { // an ended process has none
			most = max(most, now)
		}
	}
	if !errors.Is(err, io.EOF) {
		return most, lines, errors.Join(err, cmd.Wait())
	}
	return most, lines, cmd.Wait()
}

// helper is this program under another name, in a process of its own. It answers a
// line with a line and ends with its input.
type helper struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Reader
}

// startHelper hands files on, as descriptors from 3.
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

// hear waits for a line and reads values from it.
func (h *helper) hear(values ...any) error {
	line, err := h.lines.ReadString('\n')
	if err != nil {
		return fmt.Errorf("hear of %s: %w", h.name, err)
	}
	_, err = fmt.Sscanln(line, values...)
	return err
}

func (h *helper) ask(line string, values ...any) error {
	if _, err := fmt.Fprintln(h.stdin, line); err != nil {
		return fmt.Errorf("ask %s: %w", h.name, err)
	}
	return h.hear(values...)
}

func (h *helper) stop() error { return errors.Join(h.stdin.Close(), h.cmd.Wait()) }

// server is a program that answers over HTTP.
type server struct {
	cmd *exec.Cmd
	url string
	log string // file with all that it has printed
}

// readyTimeout is many times what a server needs on an idle machine.
const readyTimeout = 3 * time.Minute

// startServer returns when the server answers to a request for the page.
func startServer(address, page, name string, args ...string) (*server, error) {
	log, err := os.CreateTemp(dir, filepath.Base(name)+"-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &server{cmd: exec.Command(name, args...), url: "http://" + address, log: log.Name()}
	s.cmd.Dir = dir
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(readyTimeout); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.get(page)
		switch {
		case err == nil:
			return s, nil
		case time.Now().After(deadline):
			said, _ := os.ReadFile(s.log) // without it there is less to tell
			return nil, errors.Join(fmt.Errorf("%s is not ready after %s: %w\n%s", name, readyTimeout, err, said), s.stop())
		}
	}
}

// stop ends the server at once: what it would do at its end is not measured.
func (s *server) stop() error {
	err := s.cmd.Process.Kill()
	_ = s.cmd.Wait() // it was killed
	return err
}

// client asks for pages as they are: compression is not what is measured.
var client = &http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: time.Minute}

func (s *server) get(page string) (string, error) {
	response, err := client.Get(s.url + page)
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

// scrape measures a request for the metrics.
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

// processorTime is what all threads of a process have used, to the nanosecond: the
// clock of clock_getcpuclockid(3).
func processorTime(pid int) (time.Duration, error) {
	const cpuClockSched = 2 // CPUCLOCK_SCHED
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuClockSched), &t); err != nil {
		return 0, fmt.Errorf("read processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// status returns a size from /proc/PID/status, in bytes: VmRSS is what is resident,
// VmHWM the most that was.
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

// value returns the value of the sample with exactly this name and these labels.
func value(exposition, name string) (float64, error) {
	for line := range strings.Lines(exposition) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, fmt.Errorf("no sample %s", name)
}
