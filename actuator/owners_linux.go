package actuator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
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
	// whose descriptors could not be read: permission denied.
	Processes, Unreadable int
}

// FindOwners returns the owners of the sockets with the given inodes by one scan of
// /proc; inodes of 0 are ignored. Capabilities are those of the shutdown method, see
// findOwners; missing ones are not an error.
func FindOwners(ctx context.Context, inodes []uint32) (Owners, error) {
	wanted := slices.DeleteFunc(slices.Clone(inodes), func(inode uint32) bool { return inode == 0 })
	found, err := findOwners(ctx, sortCompact(wanted), nil)
	if err != nil {
		return Owners{}, fmt.Errorf("find owners: %w", err)
	}
	result := Owners{
		ByInode:    make(map[uint32]Owner, len(found.byInode)),
		Processes:  found.processes,
		Unreadable: found.unreadable,
	}
	var cache processCache
	for inode, holders := range found.byInode {
		pid := holders[0].pid
		result.ByInode[inode] = Owner{PID: pid, Command: cache.get(pid).command}
	}
	return result, nil
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

// owners is the result of a /proc scan. Unreadable counts the scanned processes whose
// descriptors could not be read: permission denied.
type owners struct {
	byInode               map[uint32][]holder // sorted
	processes, unreadable int
	// notDumpable maps a uid to one of its unreadable processes that is not dumpable.
	notDumpable map[uint32]int
}

// maxWorkers limits the CPUs of a scan, in favour of the applications.
const maxWorkers = 2

// findOwners scans the descriptors of the processes in /proc for sockets with the given
// inodes. Processes of the given cgroups and of this network namespace come first. When
// every inode has a holder, the scan continues only with processes that SIGPIPE would
// kill, and with other processes of their executables: the SIGPIPE check needs all such
// holders. A process that ends during the scan is not an error.
//
// It needs PTRACE_MODE_READ access: the owner's uid and gid, or CAP_SYS_PTRACE, and
// CAP_DAC_READ_SEARCH for directories of another uid. It returns an error if /proc
// belongs to another pid namespace.
func findOwners(ctx context.Context, inodes []uint32, cgroups []uint64) (*owners, error) {
	if len(inodes) == 0 {
		return &owners{}, nil
	}
	proc, err := openProc()
	if err != nil {
		return nil, err
	}
	defer unix.Close(proc)
	// pidfd_open(2) takes process ids of our own namespace.
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil, fmt.Errorf("check /proc: it belongs to another pid namespace (self is %q, want %d): %w", self, os.Getpid(), cmp.Or(err, error(unix.ESRCH)))
	}
	pids, err := listProcesses(proc)
	if err != nil {
		return nil, err
	}
	return scanProcesses(ctx, proc, rank(proc, pids, cgroups), inodes)
}

// scanProcesses scans the descriptors of the given processes, in this order.
func scanProcesses(ctx context.Context, proc int, pids []int, inodes []uint32) (*owners, error) {
	s := newSearch(proc, inodes)
	s.each(ctx, pids, func(w *worker, pid int) {
		if s.missing.Load() == 0 {
			if kills, err := sigpipeKills(pid); err == nil && !kills {
				s.skip(pid)
				return
			}
		}
		w.process(pid)
	})
	if killed := s.killedExecutables(); len(killed) > 0 {
		s.each(ctx, s.skipped, func(w *worker, pid int) {
			// The executable is unreadable after the end of the first thread.
			if e := executableOf(holder{pid: pid}); e.inode == 0 || slices.ContainsFunc(killed, e.same) {
				w.process(pid)
			}
		})
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.result()
}

// each calls scan for the processes, in this order, until ctx ends or the search fails.
func (s *search) each(ctx context.Context, pids []int, scan func(w *worker, pid int)) {
	var (
		next    atomic.Int64
		workers sync.WaitGroup
	)
	for range min(maxWorkers, runtime.GOMAXPROCS(0), len(pids)) {
		workers.Go(func() {
			w := worker{search: s}
			for ctx.Err() == nil && !s.failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= len(pids) {
					return
				}
				scan(&w, pids[i])
			}
		})
	}
	workers.Wait()
}

// search is the state that the workers of one scan share.
type search struct {
	proc    int
	wanted  map[uint32]int // inode to index in found; read only
	found   []atomic.Bool
	missing atomic.Int64
	failed  atomic.Bool // set by an error of tcphup itself: the scan ends

	mu                    sync.Mutex
	holders               map[uint32][]holder
	skipped               []int // not scanned, because every inode had a holder
	processes, unreadable int
	notDumpable           map[uint32]int
	errs                  []error
}

func newSearch(proc int, inodes []uint32) *search {
	s := &search{
		proc:    proc,
		wanted:  make(map[uint32]int, len(inodes)),
		found:   make([]atomic.Bool, len(inodes)),
		holders: make(map[uint32][]holder, len(inodes)),

		notDumpable: make(map[uint32]int),
	}
	for i, inode := range inodes {
		s.wanted[inode] = i
	}
	s.missing.Store(int64(len(s.wanted)))
	return s
}

func (s *search) addHolder(inode uint32, index int, h holder) {
	if s.found[index].CompareAndSwap(false, true) {
		s.missing.Add(-1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holders[inode] = append(s.holders[inode], h)
}

func (s *search) skip(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped = append(s.skipped, pid)
}

// killedExecutables returns the executables of the holders that SIGPIPE would kill.
func (s *search) killedExecutables() []executable {
	var executables []executable
	seen := make(map[int]bool)
	for _, holders := range s.holders {
		for _, h := range holders {
			if seen[h.pid] {
				continue
			}
			seen[h.pid] = true
			if kills, err := sigpipeKills(h.pid); kills || err != nil {
				executables = append(executables, executableOf(h))
			}
		}
	}
	return executables
}

// countProcess counts a scanned process; err is the error of reading its descriptors.
func (s *search) countProcess(pid int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.processes++
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		// The process has ended and closed its sockets.
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		s.processes++
		s.unreadable++
		if uid, ok := notDumpable(s.proc, pid); ok {
			s.notDumpable[uid] = pid
		}
	default:
		s.failed.Store(true)
		s.errs = append(s.errs, fmt.Errorf("read descriptors of process %d: %w", pid, err))
	}
}

func (s *search) result() (*owners, error) {
	for _, holders := range s.holders {
		slices.SortFunc(holders, func(a, b holder) int {
			return cmp.Or(cmp.Compare(a.pid, b.pid), cmp.Compare(a.fd, b.fd))
		})
	}
	found := &owners{byInode: s.holders, processes: s.processes, unreadable: s.unreadable, notDumpable: s.notDumpable}
	return found, errors.Join(s.errs...)
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
