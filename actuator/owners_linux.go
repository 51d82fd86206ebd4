package actuator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
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

// holder is a process and its descriptor of a socket.
type holder struct{ pid, fd int }

// owners is the result of a /proc scan. Unreadable counts the scanned processes whose
// descriptors could not be read: permission denied.
type owners struct {
	byInode               map[uint32][]holder // sorted
	processes, unreadable int
}

// maxWorkers limits the CPUs of a scan, in favour of the applications.
const maxWorkers = 2

// findOwners scans the descriptors of the processes in /proc for sockets with the given
// inodes. Processes of the given cgroups and of this network namespace come first. When
// every inode has a holder, the scan continues only with processes that SIGPIPE would
// kill: that check needs all such holders. A process that ends during the scan is not
// an error.
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

// search is the state that the workers of one scan share.
type search struct {
	proc    int
	wanted  map[uint32]int // inode to index in found; read only
	found   []atomic.Bool
	missing atomic.Int64
	failed  atomic.Bool // set by an error of tcphup itself: the scan ends

	mu                    sync.Mutex
	holders               map[uint32][]holder
	processes, unreadable int
	errs                  []error
}

func newSearch(proc int, inodes []uint32) *search {
	s := &search{
		proc:    proc,
		wanted:  make(map[uint32]int, len(inodes)),
		found:   make([]atomic.Bool, len(inodes)),
		holders: make(map[uint32][]holder, len(inodes)),
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
	return &owners{byInode: s.holders, processes: s.processes, unreadable: s.unreadable}, errors.Join(s.errs...)
}

// worker holds reusable buffers: reading a descriptor does not allocate.
type worker struct {
	*search
	path    []byte
	dirents [8 << 10]byte
	link    [32]byte // fits "socket:[4294967295]"; a longer link is not a socket
}

// process scans the descriptors of one process.
func (w *worker) process(pid int) {
	w.path = append(strconv.AppendInt(w.path[:0], int64(pid), 10), "/fd\x00"...)
	dir, err := openDirectory(w.proc, &w.path[0])
	if err != nil {
		w.countProcess(pid, err)
		return
	}
	defer unix.Close(dir)
	for name, err := range numericNames(dir, w.dirents[:]) {
		var inode uint32
		if err == nil {
			inode, err = w.socketInode(dir, name)
		}
		if err != nil {
			w.countProcess(pid, err)
			return
		}
		if index, ok := w.wanted[inode]; ok && inode != 0 {
			w.addHolder(inode, index, holder{pid: pid, fd: atoi(name)})
		}
	}
	w.countProcess(pid, nil)
}

// socketInode returns the inode of the socket behind a descriptor, or 0 for another
// file. The name must end with a NUL in memory, as in a dirent.
func (w *worker) socketInode(dir int, name []byte) (uint32, error) {
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir),
		uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&w.link[0])), uintptr(len(w.link)), 0, 0)
	switch {
	case errno == unix.ENOENT:
		return 0, nil // closed since getdents
	case errno != 0:
		return 0, errno
	}
	return parseSocketLink(w.link[:n]), nil
}

// parseSocketLink returns N of "socket:[N]" (proc_pid_fd(5)), and 0 for other links.
func parseSocketLink(link []byte) uint32 {
	link, isSocket := bytes.CutPrefix(link, []byte("socket:["))
	digits, closed := bytes.CutSuffix(link, []byte("]"))
	if !isSocket || !closed {
		return 0
	}
	inode, err := strconv.ParseUint(string(digits), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(inode)
}

// numericNames returns the names in a directory of /proc that begin with a digit. The
// buffer must fit a struct linux_dirent64 with a name of 255 bytes. A name is valid until
// the next one, and a NUL follows it in memory. An error is the last element.
func numericNames(dir int, buffer []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for {
			n, err := unix.Getdents(dir, buffer)
			if err != nil {
				yield(nil, err)
				return
			}
			if n <= 0 {
				return
			}
			for rest := buffer[:n]; len(rest) > 0; {
				var name []byte
				name, rest = nextDirent(rest)
				if name != nil && '0' <= name[0] && name[0] <= '9' && !yield(name, nil) {
					return
				}
			}
		}
	}
}

// nextDirent parses the struct linux_dirent64 (getdents64(2)) at the start of b and
// returns its name, which a NUL follows. The name is nil when the struct is truncated.
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

// atoi parses a process id or a descriptor. It returns -1 for other text and above
// math.MaxInt32.
func atoi(name []byte) int {
	n, err := strconv.ParseUint(string(name), 10, 31)
	if err != nil {
		return -1
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
	var pids []int
	for name, err := range numericNames(proc, make([]byte, 32<<10)) {
		if err != nil {
			return nil, fmt.Errorf("read /proc: %w", err)
		}
		if pid := atoi(name); pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
