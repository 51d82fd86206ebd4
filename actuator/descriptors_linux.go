package actuator

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
)

// worker holds reusable buffers: reading a descriptor does not allocate.
type worker struct {
	*search
	path    []byte
	dirents [8 << 10]byte
	link    [32]byte // fits "socket:[4294967295]"; a longer link is not a socket
	// heldBy has, for each socket of the search, the last process in which it was found.
	heldBy []int
}

// process scans the descriptors of one process. After the end of its first thread,
// /proc/PID/fd is empty and belongs to root, and only its other threads list descriptors.
func (w *worker) process(ctx context.Context, c candidate) {
	n, err := w.descriptors(ctx, c, 0)
	if err == nil && n == 0 || errors.Is(err, os.ErrPermission) {
		ended, statErr := w.firstThreadEnded(c.pid)
		switch {
		case statErr != nil:
			err = statErr
		case ended:
			err = w.otherThreads(ctx, c)
		}
	}
	if errors.Is(err, errTimeOver) {
		w.addUnsearched(c)
		return
	}
	w.countProcess(c.pid, err)
}

// errTimeOver ends the scan of a process that is not near.
var errTimeOver = errors.New("time for other processes is over")

// otherThreads scans the descriptors of the first other thread that has any. It returns
// ESRCH if the process has ended.
func (w *worker) otherThreads(ctx context.Context, c candidate) error {
	w.path = fmt.Appendf(w.path[:0], "%d/task\x00", c.pid)
	dir, err := openDirectory(w.proc, &w.path[0])
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	tids, err := listNumbers(dir)
	if err != nil {
		return err
	}
	for _, tid := range tids {
		if tid == c.pid {
			continue
		}
		n, err := w.descriptors(ctx, c, tid)
		if n > 0 || err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return unix.ESRCH
}

// descriptors scans and counts the descriptors of a process, or of its thread tid if that
// is not 0. It ends early if the process has every socket of the search: holders are
// processes, so its other descriptors add nothing. It returns errTimeOver for a process that
// is not near.
func (w *worker) descriptors(ctx context.Context, c candidate, tid int) (n int, err error) {
	w.path = strconv.AppendInt(w.path[:0], int64(c.pid), 10)
	if tid != 0 {
		w.path = strconv.AppendInt(append(w.path, "/task/"...), int64(tid), 10)
	}
	w.path = append(w.path, "/fd\x00"...)
	dir, err := openDirectory(w.proc, &w.path[0])
	if err != nil {
		return 0, err
	}
	defer unix.Close(dir)
	if w.heldBy == nil {
		w.heldBy = make([]int, len(w.found))
	}
	held := 0
	for name, err := range numericNames(dir, w.dirents[:]) {
		var inode uint32
		switch {
		case err != nil:
		case !c.near && w.timeOver():
			err = errTimeOver
		case ctx.Err() != nil:
			err = ctx.Err()
		default:
			inode, err = w.socketInode(dir, name)
		}
		if err != nil {
			return n, err
		}
		n++
		if index, ok := w.wanted[inode]; ok && inode != 0 {
			w.addHolder(inode, index, holder{pid: c.pid, tid: tid, fd: atoi(name)})
			if w.heldBy[index] != c.pid {
				w.heldBy[index] = c.pid
				held++
			}
			if held == len(w.wanted) {
				break
			}
		}
	}
	return n, nil
}

// firstThreadEnded reports whether the first thread of a process, or the process, has
// ended: its state in /proc/PID/stat is Z (proc_pid_stat(5)). The file is readable for
// every user. The error is a lack of descriptors or memory in tcphup itself.
func (w *worker) firstThreadEnded(pid int) (bool, error) {
	w.path = append(strconv.AppendInt(w.path[:0], int64(pid), 10), "/stat"...)
	fd, err := unix.Openat(w.proc, string(w.path), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, onlyExhausted(err)
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, w.dirents[:])
	if err != nil {
		return false, onlyExhausted(err)
	}
	stat := w.dirents[:n] // PID (COMMAND) STATE; the command may contain any byte
	return bytes.HasPrefix(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" Z")), nil
}

// onlyExhausted returns err if it is a lack of descriptors or memory, else nil.
func onlyExhausted(err error) error {
	if hangup.IsExhausted(err) {
		return err
	}
	return nil
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

// listNumbers returns the names in a directory that are numbers above 0.
func listNumbers(dir int) ([]int, error) {
	var numbers []int
	for name, err := range numericNames(dir, make([]byte, 32<<10)) {
		if err != nil {
			return nil, err
		}
		if n := atoi(name); n > 0 {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
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
