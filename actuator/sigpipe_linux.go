package actuator

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
)

var (
	errSIGPIPE = errors.New("SIGPIPE has its default disposition")
	// errPrefork means that a destroy would not protect the processes from SIGPIPE. The
	// first system call on the destroyed socket returns ECONNABORTED, in one process. A write
	// in each of the others raises SIGPIPE.
	errPrefork = errors.New("destroy is not safe either, because another process of the same executable shares the socket")
)

// maxNamed limits the processes in a detail.
const maxNamed = 4

// checkSIGPIPE returns an error if SIGPIPE would kill a holder at its next write after a
// shutdown. The error matches errPrefork if such a holder runs the executable of another
// holder: both are workers, or the other one is their parent. A descriptor that leaked
// into another program does not match. Commands of Request.SIGPIPESafe are exempt.
func (x *action) checkSIGPIPE(holders []holder) error {
	processes := distinctProcesses(holders)
	var killed []holder
	var named, commands []string
	for _, h := range processes {
		p := x.processes.get(h.pid)
		if p.err != nil {
			return fmt.Errorf("read command and SIGPIPE disposition of process %d: %w", h.pid, p.err)
		}
		if !p.sigpipeKills || slices.Contains(x.SIGPIPESafe, p.command) {
			continue
		}
		killed = append(killed, h)
		named = append(named, fmt.Sprintf("process %d (%s)", h.pid, p.command))
		commands = append(commands, p.command)
	}
	if len(killed) == 0 {
		return nil
	}
	if n := len(named) - maxNamed; n > 0 {
		named = append(named[:maxNamed], fmt.Sprintf("%d more", n))
	}
	err := fmt.Errorf("%w in %s: the next write would be fatal", errSIGPIPE, strings.Join(named, ", "))
	if len(processes) > 1 && sharesExecutable(killed, processes) {
		err = fmt.Errorf("%w; %w", err, errPrefork)
	}
	slices.Sort(commands)
	return fmt.Errorf("%w; if all writes use MSG_NOSIGNAL, add --sigpipe-safe=%s (policy: sigpipe_safe)",
		err, hangup.JoinCommands(slices.Compact(commands)))
}

// distinctProcesses returns the first holder of each process. The holders are sorted.
func distinctProcesses(holders []holder) []holder {
	return slices.CompactFunc(slices.Clone(holders), func(a, b holder) bool { return a.pid == b.pid })
}

// sharesExecutable reports whether one of the killed processes runs the executable of
// another process.
func sharesExecutable(killed, processes []holder) bool {
	executables := make([]executable, len(processes))
	for i, h := range processes {
		executables[i] = executableOf(h)
	}
	for i, h := range processes {
		if !slices.Contains(killed, h) {
			continue
		}
		for j := range processes {
			if i != j && executables[i].same(executables[j]) {
				return true
			}
		}
	}
	return false
}

// executable identifies the program of a process. Unreadable fields are 0 or "".
type executable struct {
	device, inode uint64
	path, command string
}

func executableOf(h holder) executable {
	e := executable{command: commandOf(h.pid)}
	link := fmt.Sprintf("/proc/%d/task/%d/exe", h.pid, cmp.Or(h.tid, h.pid))
	var st unix.Statx_t
	// A file on a network file system must not delay the action.
	if err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err == nil {
		e.device, e.inode = unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino
	}
	e.path, _ = os.Readlink(link)
	return e
}

// same compares files, else paths, else command names.
func (e executable) same(other executable) bool {
	switch {
	case e.inode != 0 && other.inode != 0:
		return e.device == other.device && e.inode == other.inode
	case e.path != "" && other.path != "":
		return e.path == other.path
	default:
		return e.command == other.command
	}
}
