package namespaces

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process refers to a process by its directory in /proc: another process with the same id is
// not read.
type process struct {
	member
	dir int
}

func openProcess(m member) (process, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(m.tid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return process{m, dir}, err
}

func (p process) close() { _ = unix.Close(p.dir) }

// read returns the content of a file.
func (p process) read(name string) (string, error) {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var text []byte
	var buffer [2048]byte
	for {
		n, err := unix.Read(fd, buffer[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return "", err
		case n == 0:
			return string(text), nil
		default:
			text = append(text, buffer[:n]...)
		}
	}
}

func (p process) origin() (Origin, error) {
	text, err := p.read("cgroup")
	return ParseOrigin(text), err
}

// in returns an error if the process is not in the network namespace.
func (p process) in(id ID) error {
	if own, err := readID(p.dir, "ns/net", id.Device); err != nil || own != id {
		return errors.New("process has ended or left the namespace")
	}
	return nil
}

// started returns when the process started, as the time since boot. The stat file of its first
// thread is read: the kernel visits all threads for the file of the process.
func (p process) started() (time.Duration, error) {
	text, err := p.read("task/" + strconv.Itoa(p.pid) + "/stat")
	if err != nil {
		return 0, err
	}
	return parseStarted(text)
}

// parseStarted returns starttime of /proc/PID/stat, see proc(5). The name of the program is in
// parentheses, and may have spaces and parentheses.
func parseStarted(stat string) (time.Duration, error) {
	const (
		state, starttime = 3, 22 // numbers of fields; state is the first one after the name
		tick             = time.Second / 100
	)
	_, rest, ok := cutLast(stat, ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) <= starttime-state {
		return 0, fmt.Errorf("parse process state: %q", stat)
	}
	ticks, err := strconv.ParseInt(fields[starttime-state], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse process state: start time: %w", err)
	}
	return time.Duration(ticks) * tick, nil
}

// originOf returns the origin of a process that is still in the namespace.
func (n *Namespace) originOf(m member) (Origin, error) {
	p, err := openProcess(m)
	if err != nil {
		return Origin{}, err
	}
	defer p.close()
	origin, err := p.origin()
	if err == nil {
		err = p.in(n.ID)
	}
	if err != nil {
		return Origin{}, err
	}
	return origin, nil
}
