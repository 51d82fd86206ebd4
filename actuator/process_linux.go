package actuator

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/internal/text"
)

// rank orders processes by how likely they hold a socket of this network
// namespace that was opened in one of the given cgroups.
func rank(proc int, pids []int, cgroups []uint64) []int {
	ownNet := namespaceInode(proc, os.Getpid())
	inCgroup := cgroupMembers(cgroups)
	key := make(map[int]int, len(pids))
	for _, pid := range pids {
		// Where a namespace is kept secret the process may well be in ours.
		if net := namespaceInode(proc, pid); net != 0 && net != ownNet {
			key[pid] += 2
		}
		if len(inCgroup) > 0 && !inCgroup[pid] {
			key[pid]++
		}
	}
	key[os.Getpid()] = -1 // our own sockets must be known for ours
	slices.SortStableFunc(pids, func(a, b int) int { return cmp.Compare(key[a], key[b]) })
	return pids
}

// namespaceInode names the network namespace of a process; 0 means unknown.
func namespaceInode(proc, pid int) uint64 {
	var st unix.Stat_t
	if err := unix.Fstatat(proc, strconv.Itoa(pid)+"/ns/net", &st, 0); err != nil {
		return 0
	}
	return st.Ino
}

// cgroupRoot is where systemd and container runtimes mount cgroup v2.
const cgroupRoot = "/sys/fs/cgroup"

// cgroupMembers returns the processes in the cgroup v2 directories with the given
// ids. It opens them by id, which the kernel allows to CAP_DAC_READ_SEARCH alone;
// without that, or without cgroup v2, the set is empty and nothing is preferred.
func cgroupMembers(ids []uint64) map[int]bool {
	root, err := unix.Open(cgroupMount(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(root)
	members := make(map[int]bool)
	for _, id := range ids {
		if id <= rootCgroup {
			return nil // everything is below it; preferring it prefers nothing
		}
		handle := unix.NewFileHandle(kernfsHandle, cgroupHandle(id))
		dir, err := unix.OpenByHandleAt(root, handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
		if err != nil {
			return nil
		}
		procs, err := os.ReadFile(filepath.Join("/proc/self/fd", strconv.Itoa(dir), "cgroup.procs"))
		_ = unix.Close(dir)
		if err != nil {
			return nil
		}
		for line := range bytes.Lines(procs) {
			if pid := atoi(bytes.TrimSpace(line)); pid > 0 {
				members[pid] = true
			}
		}
	}
	return members
}

// kernfsHandle is the kernel's FILEID_KERNFS: a 64-bit cgroup id is the handle.
const kernfsHandle = 0xfe

// cgroupMount is the cgroup v2 hierarchy: the root itself, or its part of a
// hybrid layout.
func cgroupMount() string {
	hybrid := filepath.Join(cgroupRoot, "unified")
	if _, err := os.Stat(hybrid); err == nil {
		return hybrid
	}
	return cgroupRoot
}

// process is what an action has to know of an owner.
type process struct {
	command      string
	sigpipeKills bool
	err          error // what kept us from knowing, and is no secret of the process's
	read         time.Time
}

// processes remembers owners for a moment: a pool of hundreds of flows has but
// one, and what it does about SIGPIPE it decides at its start.
type processes map[int]process

const processFresh = 100 * time.Millisecond

func (known *processes) process(pid int) process {
	if p, ok := (*known)[pid]; ok && p.err == nil && time.Since(p.read) < processFresh {
		return p
	}
	if *known == nil {
		*known = make(processes)
	}
	p := process{command: commandOf(pid), read: time.Now()}
	p.sigpipeKills, p.err = sigpipeKills(pid)
	(*known)[pid] = p
	return p
}

// sigpipeKills reports whether the process would die of a SIGPIPE: it neither
// ignores nor catches it. A process that has ended cannot die; one that will not
// tell is taken to. The error says that it could not be asked for want of a
// descriptor or memory of our own.
func sigpipeKills(pid int) (bool, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	switch {
	case err == nil:
		kills, err := parseSIGPIPE(status)
		return kills || err != nil, nil
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return false, nil
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return true, err
	default:
		return true, nil
	}
}

// parseSIGPIPE reads SigIgn and SigCgt of /proc/PID/status (proc_pid_status(5)).
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

// commandOf returns the printable name of a process, or "" when it has ended. A process
// chooses its name itself.
func commandOf(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return text.Printable(strings.TrimSuffix(string(b), "\n"))
}

func cgroupHandle(id uint64) []byte { return binary.NativeEndian.AppendUint64(nil, id) }

// destroysOrphans reports whether SOCK_DESTROY ends a socket that no process holds.
// Before Linux 6.11 it emptied its queue and stopped its timers, and left it in
// FIN_WAIT1 for good (mended by "tcp: fix forever orphan socket caused by
// tcp_abort").
func destroysOrphans() bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false
	}
	return releaseAtLeast(unix.ByteSliceToString(name.Release[:]), 6, 11)
}

// releaseAtLeast compares the first two numbers of a kernel's release, such as
// "6.1.0-18-amd64".
func releaseAtLeast(release string, major, minor int) bool {
	var a, b int
	if n, err := fmt.Sscanf(release, "%d.%d", &a, &b); n < 2 || err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}

// effectiveCapabilities returns the set of this process, one bit each
// (capabilities(7)); 0 when it cannot be read.
func effectiveCapabilities() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0
	}
	return uint64(data[0].Effective) | uint64(data[1].Effective)<<32
}
