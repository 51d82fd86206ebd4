package actuator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// maxWorkers limits the CPUs of a scan, in favour of the applications.
const maxWorkers = 2

// A scan spends this time on processes that are not near the sockets (candidate): any user
// can have millions of descriptors. Without an owner for each socket it takes longer.
const (
	othersLimit  = time.Second
	missingLimit = 2 * time.Second
)

// search is the state that the workers of one scan share.
type search struct {
	proc    int
	all     bool           // find every holder, not only those that concern SIGPIPE
	wanted  map[uint32]int // inode to index in found; read only
	found   []atomic.Bool
	missing atomic.Int64
	failed  atomic.Bool // set by an error of tcphup itself: the scan ends

	begin sync.Once
	began time.Time // set by the first timeOver
	// killed are the executables of holders that SIGPIPE would kill; nil in the first pass.
	killed []executable

	mu                    sync.Mutex
	holders               map[uint32][]holder
	skipped               []candidate // not scanned, because every inode had a holder
	unsearched            []candidate // not scanned in full, because the time was over
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

// run scans the processes, in this order, until ctx ends.
func (s *search) run(ctx context.Context, processes []candidate) {
	s.pass(ctx, processes)
	if s.killed = s.killedExecutables(); len(s.killed) > 0 {
		s.pass(ctx, s.skipped)
	}
}

// pass visits the processes, in this order, and then those among the unsearched ones that
// turned out to have the user or the cgroup of a holder.
func (s *search) pass(ctx context.Context, processes []candidate) {
	for len(processes) > 0 {
		s.each(ctx, processes)
		processes = s.takeRelated()
	}
}

// each visits the processes, in this order, until ctx ends or the search fails.
func (s *search) each(ctx context.Context, processes []candidate) {
	inParallel(len(processes), func() func(int) bool {
		w := worker{search: s}
		return func(i int) bool {
			if ctx.Err() != nil || s.failed.Load() {
				return false
			}
			w.visit(ctx, processes[i])
			return true
		}
	})
}

// inParallel calls the functions of up to maxWorkers workers with the numbers from 0 to n-1, in
// this order. A worker ends when its function returns false.
func inParallel(n int, worker func() func(int) bool) {
	var (
		next    atomic.Int64
		workers sync.WaitGroup
	)
	for range min(maxWorkers, runtime.GOMAXPROCS(0), n) {
		workers.Go(func() {
			do := worker()
			for {
				i := int(next.Add(1)) - 1
				if i >= n || !do(i) {
					return
				}
			}
		})
	}
	workers.Wait()
}

// visit scans a process unless its result would not matter or the time is over.
func (w *worker) visit(ctx context.Context, c candidate) {
	switch {
	case !c.near && w.timeOver():
		w.addUnsearched(c)
	case !w.all && w.missing.Load() == 0 && !w.concernsSIGPIPE(c.pid):
		w.skip(c)
	default:
		w.process(ctx, c)
	}
}

// concernsSIGPIPE reports whether SIGPIPE would kill a process, or whether it runs a killed
// executable.
func (s *search) concernsSIGPIPE(pid int) bool {
	if kills, err := sigpipeKills(pid); kills || err != nil {
		return true
	}
	if len(s.killed) == 0 {
		return false
	}
	// The executable is unreadable after the end of the first thread.
	e := executableOf(holder{pid: pid})
	return e.inode == 0 || slices.ContainsFunc(s.killed, e.same)
}

// timeOver reports whether the time for processes that are not near is over. It begins with
// the first call.
func (s *search) timeOver() bool {
	s.begin.Do(func() { s.began = time.Now() })
	limit := othersLimit
	if s.missing.Load() > 0 {
		limit = missingLimit
	}
	return time.Since(s.began) > limit
}

func (s *search) addHolder(inode uint32, index int, h holder) {
	if s.found[index].CompareAndSwap(false, true) {
		s.missing.Add(-1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holders[inode] = append(s.holders[inode], h)
}

func (s *search) skip(c candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped = append(s.skipped, c)
}

func (s *search) addUnsearched(c candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsearched = append(s.unsearched, c)
}

// takeRelated removes from the unsearched processes those with the user or the cgroup of a
// holder, and returns them as near ones.
func (s *search) takeRelated() []candidate {
	if len(s.unsearched) == 0 {
		return nil
	}
	users, cgroups := make(map[uint32]bool), make(map[string]bool)
	for _, holders := range s.holders {
		for _, h := range distinctProcesses(holders) {
			if uid, ok := userOf(s.proc, h.pid); ok {
				users[uid] = true
			}
			cgroups[s.cgroupOf(h.pid)] = true
		}
	}
	delete(cgroups, "")
	var related []candidate
	s.unsearched = slices.DeleteFunc(s.unsearched, func(c candidate) bool {
		c.near = users[c.uid] || cgroups[s.cgroupOf(c.pid)]
		if c.near {
			related = append(related, c)
		}
		return c.near
	})
	return related
}

// cgroupOf is the function cgroupOf; without descriptors or memory the search fails.
func (s *search) cgroupOf(pid int) string {
	path, err := cgroupOf(pid)
	if err != nil && !s.failed.Swap(true) {
		s.errs = append(s.errs, err)
	}
	return path
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
	for inode, holders := range s.holders {
		slices.SortFunc(holders, func(a, b holder) int {
			return cmp.Or(cmp.Compare(a.pid, b.pid), cmp.Compare(a.fd, b.fd))
		})
		s.holders[inode] = slices.Compact(holders) // a scan may have been repeated
	}
	return &owners{
		byInode: s.holders, processes: s.processes, unreadable: s.unreadable, unsearched: len(s.unsearched), notDumpable: s.notDumpable,
	}, errors.Join(s.errs...)
}
