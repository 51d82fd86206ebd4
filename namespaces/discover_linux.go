package namespaces

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Discover returns the network namespaces of the processes in /proc, and those with a name.
// A process without a namespace has ended. Of other users' processes it reads the namespace
// only with CAP_SYS_PTRACE. A namespace that is only the namespace of a single thread, or of
// descriptors, is not found.
func Discover() (*Found, error) { return find("/run/netns", "/var/run/netns") }

// find returns the network namespaces of the processes in /proc, and those with a name in the
// directories.
func find(directories ...string) (*Found, error) {
	own, err := statID("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("read own network namespace: %w", err)
	}
	found := &Found{Namespaces: []Namespace{{ID: own, Own: true}}}
	byID := map[ID]int{own: 0}
	get := func(id ID) *Namespace {
		i, ok := byID[id]
		if !ok {
			i = len(found.Namespaces)
			byID[id], found.Namespaces = i, append(found.Namespaces, Namespace{ID: id})
		}
		return &found.Namespaces[i]
	}
	if err := found.addProcesses(own.Device, get); err != nil {
		return nil, err
	}
	for _, directory := range directories {
		if err := addNames(directory, get); err != nil {
			return nil, err
		}
	}
	found.sort()
	return found, nil
}

// addProcesses adds the processes in /proc to their namespaces, which are all of one device.
func (f *Found) addProcesses(device uint64, get func(ID) *Namespace) error {
	proc, err := os.Open("/proc")
	if err != nil {
		return fmt.Errorf("read processes: %w", err)
	}
	defer proc.Close()
	pids, err := numbers(proc)
	if err != nil {
		return fmt.Errorf("read processes: %w", err)
	}
	// Every pid namespace has a process 1.
	f.Hidden = !slices.Contains(pids, 1)
	for _, pid := range pids {
		id, tid, err := processID(int(proc.Fd()), pid, device)
		switch {
		case err == nil:
			n := get(id)
			n.members = append(n.members, member{pid, tid})
		case errors.Is(err, os.ErrPermission):
			f.Unreadable++
			f.unreadable = append(f.unreadable, pid)
		case !hasEnded(err):
			return fmt.Errorf("read network namespace of process %d: %w", pid, err)
		}
	}
	return nil
}

func hasEnded(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// processID returns the namespace of a process. The first thread has none after its end; then
// tid is another thread.
func processID(proc, pid int, device uint64) (id ID, tid int, err error) {
	id, err = threadNamespace(proc, pid, device)
	if !errors.Is(err, unix.ENOENT) {
		return id, pid, err
	}
	dir, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return id, 0, err
	}
	defer dir.Close()
	tids, err := numbers(dir)
	if err != nil {
		return id, 0, err
	}
	for _, tid := range tids {
		if id, err = threadNamespace(proc, tid, device); err == nil {
			return id, tid, nil
		}
	}
	return id, 0, unix.ESRCH
}

// threadNamespace returns the network namespace of a process or thread. The kernel returns
// EACCES also for a thread that has just ended.
func threadNamespace(proc, tid int, device uint64) (ID, error) {
	name := strconv.Itoa(tid)
	id, err := readID(proc, name+"/ns/net", device)
	if errors.Is(err, unix.EACCES) && unix.Faccessat(proc, name, unix.F_OK, 0) != nil {
		err = unix.ESRCH
	}
	return id, err
}

// readID returns the namespace that a link in /proc names by its inode. Unlike statID it does
// not make the kernel create and remove that inode, which takes twice the time.
func readID(dir int, path string, device uint64) (ID, error) {
	var link [32]byte
	n, err := unix.Readlinkat(dir, path, link[:])
	if err != nil {
		return ID{}, err
	}
	number, ok := bytes.CutPrefix(link[:n], []byte("net:["))
	number, closed := bytes.CutSuffix(number, []byte("]"))
	inode, err := strconv.ParseUint(string(number), 10, 64)
	if !ok || !closed || err != nil {
		return ID{}, fmt.Errorf("parse link to network namespace %s", path)
	}
	return ID{Device: device, Inode: inode}, nil
}

func statID(path string) (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ID{}, err
	}
	return ID{Device: st.Dev, Inode: st.Ino}, nil
}

// numbers returns the names in a directory that are numbers, sorted.
func numbers(dir *os.File) ([]int, error) {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := make([]int, 0, len(names))
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// addNames adds the named namespaces of a directory of ip-netns(8). Files that are not
// namespaces are left over from an earlier mount.
func addNames(directory string, get func(ID) *Namespace) error {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read names of network namespaces: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(directory, e.Name())
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
			continue
		}
		id, err := statID(path)
		if err != nil {
			continue
		}
		if n := get(id); n.Name == "" {
			n.Name, n.file = e.Name(), path
		}
	}
	return nil
}

// OfProcess returns the network namespace of a process. The error matches os.ErrNotExist
// without the process, and os.ErrPermission without CAP_SYS_PTRACE.
func OfProcess(pid int) (ID, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return ID{}, fmt.Errorf("read processes: %w", err)
	}
	defer proc.Close()
	own, err := statID("/proc/self/ns/net")
	if err != nil {
		return ID{}, fmt.Errorf("read own network namespace: %w", err)
	}
	id, _, err := processID(int(proc.Fd()), pid, own.Device)
	switch {
	case errors.Is(err, os.ErrPermission):
		return ID{}, fmt.Errorf("read network namespace of process %d: %w: grant CAP_SYS_PTRACE, or run tcphup as root", pid, err)
	case hasEnded(err):
		return ID{}, fmt.Errorf("read network namespace of process %d: %w", pid, os.ErrNotExist)
	case err != nil:
		return ID{}, fmt.Errorf("read network namespace of process %d: %w", pid, err)
	}
	return id, nil
}
