package actuator

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
)

// candidate is a process that may hold one of the sockets of a scan.
type candidate struct {
	pid int
	uid uint32 // effective
	// near is set for tcphup itself, and for processes with the user or the cgroup of a flow
	// or of a holder. Only these processes are scanned without a limit.
	near bool
	// elsewhere is set for a process of another network namespace.
	elsewhere bool
	// descriptors is the number of open descriptors, 0 before Linux 6.2.
	descriptors int64
}

// nearby returns the processes as near ones, in this order.
func nearby(pids ...int) []candidate {
	var all []candidate
	for _, pid := range pids {
		all = append(all, candidate{pid: pid, near: true})
	}
	return all
}

// rank sorts processes by how likely they hold a socket of the flows: processes with the
// user or the cgroup of a flow, then those of this network namespace, and among them those
// with few descriptors. This process is first: its own sockets must be found.
func rank(proc int, pids []int, flows []sockdiag.Flow) []candidate {
	ownNet := namespaceInode(proc, os.Getpid())
	users := make(map[uint32]bool)
	var cgroups []uint64
	for i := range flows {
		users[flows[i].UID] = true
		cgroups = append(cgroups, flows[i].CgroupID)
	}
	inCgroup := cgroupMembers(sortCompact(cgroups))
	counted := kernelAtLeast(6, 2)
	all := make([]candidate, 0, len(pids))
	for _, pid := range pids {
		c := candidate{pid: pid}
		uid, ok := userOf(proc, pid)
		c.uid, c.near = uid, !ok || users[uid] || inCgroup[pid] || pid == os.Getpid()
		// A process with an unreadable namespace may be in ours.
		net := namespaceInode(proc, pid)
		c.elsewhere = net != 0 && net != ownNet
		if counted {
			c.descriptors = countDescriptors(proc, pid)
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		return cmp.Or(
			falseFirst(a.pid != os.Getpid(), b.pid != os.Getpid()),
			falseFirst(!a.near, !b.near),
			falseFirst(a.elsewhere, b.elsewhere),
			cmp.Compare(a.descriptors, b.descriptors),
		)
	})
	return all
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// userOf returns the effective uid of a process. It returns false after its end.
func userOf(proc, pid int) (uint32, bool) {
	var st unix.Stat_t
	err := unix.Fstatat(proc, strconv.Itoa(pid), &st, 0)
	return st.Uid, err == nil
}

// countDescriptors returns the number of open descriptors of a process: the size of
// /proc/PID/fd since Linux 6.2. After the end of its first thread, that is 0, and another
// thread has the count.
func countDescriptors(proc, pid int) int64 {
	var st unix.Stat_t
	if err := unix.Fstatat(proc, strconv.Itoa(pid)+"/fd", &st, 0); err != nil || st.Size > 0 {
		return st.Size
	}
	tasks := strconv.Itoa(pid) + "/task"
	dir, err := unix.Openat(proc, tasks, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(dir)
	tids, _ := listNumbers(dir)
	for _, tid := range tids {
		if err := unix.Fstatat(dir, strconv.Itoa(tid)+"/fd", &st, 0); err == nil && st.Size > 0 {
			return st.Size
		}
	}
	return 0
}

// cgroupOf returns the path of a process's cgroup (v2) from /proc/PID/cgroup
// (proc_pid_cgroup(5)), or "" if it is unreadable or the root, which has every process. The
// error is a lack of descriptors or memory.
func cgroupOf(pid int) (string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", onlyExhausted(err)
	}
	for line := range strings.Lines(string(content)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok && path != "/" {
			return path, nil
		}
	}
	return "", nil
}

// namespaceInode returns the inode of the process's network namespace; 0 if unreadable.
func namespaceInode(proc, pid int) uint64 {
	var st unix.Stat_t
	if err := unix.Fstatat(proc, strconv.Itoa(pid)+"/ns/net", &st, 0); err != nil {
		return 0
	}
	return st.Ino
}

// cgroupMembers returns the processes of the cgroups (v2) with the given ids, or nil if
// one is unreadable. It needs CAP_DAC_READ_SEARCH (open_by_handle_at(2)).
func cgroupMembers(ids []uint64) map[int]bool {
	root, err := unix.Open(cgroupMount(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(root)
	members := make(map[int]bool)
	for _, id := range ids {
		if id <= rootCgroup {
			return nil // contains every process
		}
		handle := unix.NewFileHandle(kernfsHandle, binary.NativeEndian.AppendUint64(nil, id))
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

// kernfsHandle is FILEID_KERNFS of the kernel: the handle is the 64-bit cgroup id.
const kernfsHandle = 0xfe

// cgroupMount returns the mount point of cgroup v2 in a hybrid or a unified hierarchy.
func cgroupMount() string {
	const hybrid = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(hybrid); err == nil {
		return hybrid
	}
	return "/sys/fs/cgroup"
}
