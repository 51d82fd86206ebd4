package actuator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// holder is a descriptor by which a process holds a socket.
type holder struct{ pid, fd int }

// owners is what one pass over /proc found.
type owners struct {
	byInode map[uint32][]holder
	// processes counts those that were looked through, unreadable those of them
	// whose descriptors we may not see.
	processes, unreadable int
}

// maxWorkers share the pass; more would take the machine from the applications.
const maxWorkers = 2

// findOwners looks once through the descriptors of the processes in /proc for the
// sockets with the given inodes. Processes of the namespaces' own network come
// first, those of the given cgroups first of all. When every inode has a holder,
// the processes that remain are looked through only if a SIGPIPE would kill
// them: the SIGPIPE guard has to know every such holder, and nobody else has to
// know a second one. A process that ends meanwhile is no error.
//
// Seeing the descriptors of a process needs what PTRACE_MODE_READ needs: its uid
// and gid, or CAP_SYS_PTRACE, and CAP_DAC_READ_SEARCH for another uid's directory.
func findOwners(ctx context.Context, inodes []uint32, cgroups []uint64) (*owners, error) {
	if len(inodes) == 0 {
		return &owners{}, nil
	}
	proc, err := openProc()
	if err != nil {
		return nil, err
	}
	defer unix.Close(proc)
	// Process ids are given to pidfd_open, which knows those of our own namespace.
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil, fmt.Errorf("/proc shows this process as %q, not %d: it belongs to another pid namespace (%w)", self, os.Getpid(), cmp.Or(err, error(unix.ESRCH)))
	}
	pids, err := listProcesses(proc)
	if err != nil {
		return nil, err
	}
	return lookThrough(ctx, proc, rank(proc, pids, cgroups), inodes)
}

// lookThrough looks through the descriptors of the given processes, in order.
func lookThrough(ctx context.Context, proc int, pids []int, inodes []uint32) (*owners, error) {
	s := newSearch(proc, inodes)
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
				if s.missing.Load() == 0 {
					if kills, err := sigpipeKills(pids[i]); err == nil && !kills {
						continue
					}
				}
				w.process(pids[i])
			}
		})
	}
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.result()
}

// search is shared by the workers of one pass.
type search struct {
	proc    int
	wanted  map[uint32]int // inode to index in found; read only
	found   []atomic.Bool
	missing atomic.Int64
	failed  atomic.Bool // the rest would fail too, or say nothing that helps

	mu                    sync.Mutex
	hits                  map[uint32][]holder
	processes, unreadable int
	errs                  []error
}

func newSearch(proc int, inodes []uint32) *search {
	s := &search{
		proc:   proc,
		wanted: make(map[uint32]int, len(inodes)),
		found:  make([]atomic.Bool, len(inodes)),
		hits:   make(map[uint32][]holder, len(inodes)),
	}
	for i, inode := range inodes {
		s.wanted[inode] = i
	}
	s.missing.Store(int64(len(s.wanted)))
	return s
}

func (s *search) hit(inode uint32, index int, h holder) {
	if s.found[index].CompareAndSwap(false, true) {
		s.missing.Add(-1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits[inode] = append(s.hits[inode], h)
}

// looked counts a process; err is what kept its descriptors from us.
func (s *search) looked(pid int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.processes++
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		// It has ended, and its sockets with it.
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		s.processes++
		s.unreadable++
	default:
		s.failed.Store(true)
		s.errs = append(s.errs, fmt.Errorf("read descriptors of process %d: %w", pid, err))
	}
}

func (s *search) result() (*owners, error) {
	for _, holders := range s.hits {
		slices.SortFunc(holders, func(a, b holder) int {
			return cmp.Or(cmp.Compare(a.pid, b.pid), cmp.Compare(a.fd, b.fd))
		})
	}
	return &owners{byInode: s.hits, processes: s.processes, unreadable: s.unreadable}, errors.Join(s.errs...)
}

// worker has the buffers that make the inner loop free of allocations.
type worker struct {
	*search
	path    []byte
	dirents [8 << 10]byte
	link    [32]byte // "socket:[4294967295]" fits; a longer link is no socket
}

// process looks through the descriptors of one process.
func (w *worker) process(pid int) {
	w.path = append(strconv.AppendInt(w.path[:0], int64(pid), 10), "/fd\x00"...)
	dir, err := openDirectory(w.proc, &w.path[0])
	if err != nil {
		w.looked(pid, err)
		return
	}
	defer unix.Close(dir)
	for {
		n, err := unix.Getdents(dir, w.dirents[:])
		if err != nil || n <= 0 {
			w.looked(pid, err)
			return
		}
		for rest := w.dirents[:n]; len(rest) > 0; {
			var name []byte
			name, rest = nextDirent(rest)
			if name == nil || name[0] < '0' || name[0] > '9' {
				continue
			}
			inode, err := w.socketInode(dir, name)
			if err != nil {
				w.looked(pid, err)
				return
			}
			if index, ok := w.wanted[inode]; ok && inode != 0 {
				w.hit(inode, index, holder{pid: pid, fd: atoi(name)})
			}
		}
	}
}

// socketInode reads the link of a descriptor and returns the inode of the socket
// behind it, or 0 when it is none. The name must end with a NUL in memory, as it
// does in a dirent.
func (w *worker) socketInode(dir int, name []byte) (uint32, error) {
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir),
		uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&w.link[0])), uintptr(len(w.link)), 0, 0)
	switch {
	case errno == unix.ENOENT:
		return 0, nil // closed meanwhile
	case errno != 0:
		return 0, errno
	}
	return parseSocketLink(w.link[:n]), nil
}

// parseSocketLink returns N of "socket:[N]", and 0 of anything else.
func parseSocketLink(link []byte) uint32 {
	digits, ok := bytes.CutPrefix(link, []byte("socket:["))
	if !ok || len(digits) == 0 || digits[len(digits)-1] != ']' {
		return 0
	}
	var inode uint64
	for _, c := range digits[:len(digits)-1] {
		if c < '0' || c > '9' {
			return 0
		}
		inode = inode*10 + uint64(c-'0')
		if inode > 1<<32-1 {
			return 0
		}
	}
	return uint32(inode)
}

// nextDirent takes one struct linux_dirent64 off b and returns its name, which is
// followed by a NUL. It returns nil when b holds no whole one.
func nextDirent(b []byte) (name, rest []byte) {
	const header = 19 // d_ino, d_off, d_reclen, d_type
	if len(b) < header {
		return nil, nil
	}
	size := int(binary.NativeEndian.Uint16(b[16:]))
	if size <= header || size > len(b) {
		return nil, nil
	}
	end := bytes.IndexByte(b[header:size], 0)
	if end <= 0 {
		return nil, b[size:]
	}
	return b[header : header+end], b[size:]
}

// atoi reads a name of /proc that is known to begin with a digit; it returns -1
// when that is not all, and for more than a process id or descriptor can be.
func atoi(name []byte) int {
	var n int64
	for _, c := range name {
		if c < '0' || c > '9' {
			return -1
		}
		if n = n*10 + int64(c-'0'); n > math.MaxInt32 {
			return -1
		}
	}
	return int(n)
}

func openProc() (int, error) {
	fd, err := unix.Open("/proc", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /proc: %w", err)
	}
	return fd, nil
}

func openDirectory(at int, path *byte) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(path)), flags, 0, 0, 0)
		switch errno {
		case 0:
			return int(fd), nil
		case syscall.EINTR:
		default:
			return -1, errno
		}
	}
}

func listProcesses(proc int) ([]int, error) {
	var (
		pids   []int
		buffer [32 << 10]byte
	)
	for {
		n, err := unix.Getdents(proc, buffer[:])
		if err != nil {
			return nil, fmt.Errorf("read /proc: %w", err)
		}
		if n <= 0 {
			return pids, nil
		}
		for rest := buffer[:n]; len(rest) > 0; {
			var name []byte
			name, rest = nextDirent(rest)
			if name == nil || name[0] < '0' || name[0] > '9' {
				continue
			}
			if pid := atoi(name); pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
}
