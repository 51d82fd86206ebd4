package actuator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
)

// Owner is a process with a descriptor of a socket.
type Owner struct {
	PID     int
	Command string // "" if the process has ended
}

// Owners is the result of FindOwners.
type Owners struct {
	// ByInode maps a socket to its owner with the lowest pid. Sockets without a visible
	// owner are absent.
	ByInode map[uint32]Owner
	// Processes counts the scanned processes, and Unreadable the processes among them
	// whose descriptors could not be read: permission denied. Unsearched counts the
	// processes that were not scanned in time.
	Processes, Unreadable, Unsearched int
}

// FindOwners returns the owners of the flows by one scan of /proc; flows without an inode
// are ignored. The scan begins with processes of the given network namespaces, by inode;
// without any, with those of this process's namespace. Capabilities are those of the shutdown
// method, see findOwners; missing ones are not an error.
func FindOwners(ctx context.Context, flows []sockdiag.Flow, namespaces ...uint64) (Owners, error) {
	found, err := findOwners(ctx, flows, math.MaxInt64, false, namespaces)
	if err != nil {
		return Owners{}, fmt.Errorf("find owners: %w", err)
	}
	return newOwners(found), nil
}

func newOwners(found *owners) Owners {
	result := Owners{
		ByInode:    make(map[uint32]Owner, len(found.byInode)),
		Processes:  found.processes,
		Unreadable: found.unreadable,
		Unsearched: found.unsearched,
	}
	var cache processCache
	for inode, holders := range found.byInode {
		pid := holders[0].pid
		result.ByInode[inode] = Owner{PID: pid, Command: cache.get(pid).command}
	}
	return result
}

// holder is a process and its descriptor of a socket. After the end of the process's first
// thread, tid is another thread; otherwise it is 0.
type holder struct{ pid, tid, fd int }

// pidfdThread is PIDFD_THREAD of include/uapi/linux/pidfd.h.
const pidfdThread = unix.O_EXCL

var errNoThreadPidfd = errors.New("its first thread has ended, and the pidfd of another thread needs Linux 6.9 (PIDFD_THREAD)")

// openPidfd opens a pidfd of the process or of its thread tid.
func (h holder) openPidfd() (int, error) {
	if h.tid == 0 {
		return unix.PidfdOpen(h.pid, 0)
	}
	pidfd, err := unix.PidfdOpen(h.tid, pidfdThread)
	if errors.Is(err, unix.EINVAL) {
		err = errNoThreadPidfd
	}
	return pidfd, err
}

// owners is the result of a /proc scan. The counts are those of Owners.
type owners struct {
	byInode                           map[uint32][]holder // sorted
	processes, unreadable, unsearched int
	// deferred are the inodes of the sockets that another scan must search for, sorted.
	deferred []uint32
	// notDumpable maps a uid to one of its unreadable processes that is not dumpable.
	notDumpable map[uint32]int
}

// incomplete describes the processes that the SIGPIPE check omits, or returns "".
func (o *owners) incomplete() string {
	if o == nil || o.unsearched == 0 {
		return ""
	}
	return fmt.Sprintf("%d processes of other users not searched for lack of time", o.unsearched)
}

// findOwners scans the descriptors of the processes in /proc for the sockets of the flows.
// Processes with the user or the cgroup of a flow come first, then those of the network
// namespaces, and among them those with few descriptors. When every socket has a holder, the
// scan continues only with processes that SIGPIPE would kill, and with other processes of
// their executables: the SIGPIPE check needs all such holders. Processes with the user or
// the cgroup of a flow or of a holder are scanned in full, the others for a limited time.
// Flows whose processes have too many descriptors are deferred, see affordable. A process
// that ends during the scan is not an error. With all set, the scan does not skip processes
// that do not concern SIGPIPE.
//
// It needs PTRACE_MODE_READ access: the owner's uid and gid, or CAP_SYS_PTRACE, and
// CAP_DAC_READ_SEARCH for directories of another uid. It returns an error if /proc
// belongs to another pid namespace.
func findOwners(ctx context.Context, flows []sockdiag.Flow, limit int64, all bool, namespaces []uint64) (*owners, error) {
	flows = slices.DeleteFunc(slices.Clone(flows), func(f sockdiag.Flow) bool { return f.Inode == 0 })
	if len(flows) == 0 {
		return &owners{}, nil
	}
	proc, pids, err := openProcesses()
	if err != nil {
		return nil, err
	}
	defer unix.Close(proc)
	processes, now := rank(proc, pids, flows, limit, namespaces)
	wanted := inodesOf(now)
	found, err := scanProcesses(ctx, proc, processes, wanted, all)
	if err != nil {
		return nil, err
	}
	found.deferred = slices.DeleteFunc(inodesOf(flows), func(inode uint32) bool {
		_, searched := slices.BinarySearch(wanted, inode)
		return searched
	})
	return found, nil
}

func inodesOf(flows []sockdiag.Flow) []uint32 {
	inodes := make([]uint32, len(flows))
	for i := range flows {
		inodes[i] = flows[i].Inode
	}
	return sortCompact(inodes)
}

// openProcesses opens /proc and lists its processes. It returns an error if /proc belongs to
// another pid namespace: pidfd_open(2) takes process ids of our own.
func openProcesses() (proc int, pids []int, err error) {
	if proc, err = openProc(); err != nil {
		return -1, nil, err
	}
	if self, selfErr := os.Readlink("/proc/self"); selfErr != nil || self != strconv.Itoa(os.Getpid()) {
		err = fmt.Errorf("check /proc: it belongs to another pid namespace (self is %q, want %d): %w", self, os.Getpid(), cmp.Or(selfErr, error(unix.ESRCH)))
	} else {
		pids, err = listProcesses(proc)
	}
	if err != nil {
		_ = unix.Close(proc)
		return -1, nil, err
	}
	return proc, pids, nil
}

// scanProcesses scans the descriptors of the given processes, in this order; see findOwners
// for all.
func scanProcesses(ctx context.Context, proc int, processes []candidate, inodes []uint32, all bool) (*owners, error) {
	s := newSearch(proc, inodes)
	s.all = all
	s.run(ctx, processes)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.result()
}

func openProc() (int, error) {
	fd, err := unix.Open("/proc", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /proc: %w", err)
	}
	return fd, nil
}

func listProcesses(proc int) ([]int, error) {
	pids, err := listNumbers(proc)
	if err != nil {
		return nil, fmt.Errorf("read /proc: %w", err)
	}
	return pids, nil
}
