package actuator

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/internal/text"
)

// process is the name and SIGPIPE disposition of an owner.
type process struct {
	command      string
	sigpipeKills bool
	err          error // lack of descriptors or memory
	read         time.Time
}

// processCache caches owners by pid for processFresh: a connection pool has many flows
// and one owner. The zero value is ready to use.
type processCache map[int]process

const processFresh = 100 * time.Millisecond

func (c *processCache) get(pid int) process {
	if p, ok := (*c)[pid]; ok && p.err == nil && time.Since(p.read) < processFresh {
		return p
	}
	if *c == nil {
		*c = make(processCache)
	}
	p := process{read: time.Now()}
	if p.command, p.err = readCommand(pid); p.err == nil {
		p.sigpipeKills, p.err = sigpipeKills(pid)
	}
	(*c)[pid] = p
	return p
}

// sigpipeKills reports whether SIGPIPE would kill the process: it neither ignores nor
// catches the signal. It returns false for a process that has ended, and true for an
// unreadable status. The error is a lack of descriptors or memory in tcphup itself.
func sigpipeKills(pid int) (bool, error) {
	var buffer [4 << 10]byte // fits most processes
	status, err := readAll("/proc/"+strconv.Itoa(pid)+"/status", buffer[:0])
	switch {
	case err == nil:
		kills, err := parseSIGPIPE(status)
		return kills || err != nil, nil
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return false, nil
	default:
		return true, onlyExhausted(err)
	}
}

// readAll is os.ReadFile with a buffer, for files that never block. A scan reads the status of
// every process.
func readAll(path string, b []byte) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for {
		b = slices.Grow(b, 1)
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if err != nil || n <= 0 {
			return b, err
		}
		b = b[:len(b)+n]
	}
}

// parseSIGPIPE parses SigIgn and SigCgt of /proc/PID/status (proc_pid_status(5)). It
// returns an error unless each appears once.
func parseSIGPIPE(status []byte) (kills bool, err error) {
	masks := make(map[string]uint64, 2)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "SigIgn" && name != "SigCgt" {
			continue
		}
		if _, ok := masks[name]; ok {
			return false, fmt.Errorf("parse status: %s appears twice", name)
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return false, fmt.Errorf("parse %s: %w", name, err)
		}
		masks[name] = mask
	}
	if len(masks) != 2 {
		return false, errors.New("parse status: SigIgn and SigCgt are missing")
	}
	return (masks["SigIgn"]|masks["SigCgt"])&(1<<(unix.SIGPIPE-1)) == 0, nil
}

// commandOf returns the name of a process in printable form, or "" after its end. The
// name is untrusted: a process sets it itself.
func commandOf(pid int) string {
	command, _ := readCommand(pid)
	return command
}

// readCommand is commandOf with an error after a lack of descriptors or memory.
func readCommand(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return "", onlyExhausted(err)
	}
	return text.Printable(strings.TrimSuffix(string(b), "\n")), nil
}

// effectiveCapabilities returns the effective set of this process as a bit mask
// (capabilities(7)); 0 after an error.
func effectiveCapabilities() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0
	}
	return uint64(data[0].Effective) | uint64(data[1].Effective)<<32
}

// missingCapabilities returns the names of the capabilities that access to processes of
// other users needs and that are not effective.
func missingCapabilities() []string {
	var missing []string
	effective := effectiveCapabilities()
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_PTRACE, sysPtrace}, {unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"}} {
		if effective&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	return missing
}

const sysPtrace = "CAP_SYS_PTRACE"

// notDumpable returns the effective uid of a process, and whether its descriptors belong
// to root only because it is not dumpable (proc(5), PR_SET_DUMPABLE(2const)).
func notDumpable(proc, pid int) (uid uint32, ok bool) {
	var process, descriptors unix.Stat_t
	dir := strconv.Itoa(pid)
	if unix.Fstatat(proc, dir, &process, 0) != nil || unix.Fstatat(proc, dir+"/fd", &descriptors, 0) != nil {
		return 0, false
	}
	return process.Uid, process.Uid != descriptors.Uid
}
