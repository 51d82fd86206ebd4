package actuator

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// rank sorts processes by how likely they hold a socket of this network namespace and
// of the given cgroups. This process is first: its own sockets must be found.
func rank(proc int, pids []int, cgroups []uint64) []int {
	ownNet := namespaceInode(proc, os.Getpid())
	inCgroup := cgroupMembers(cgroups)
	key := make(map[int]int, len(pids))
	for _, pid := range pids {
		// A process with an unreadable namespace may be in ours.
		if net := namespaceInode(proc, pid); net != 0 && net != ownNet {
			key[pid] += 2
		}
		if len(inCgroup) > 0 && !inCgroup[pid] {
			key[pid]++
		}
	}
	key[os.Getpid()] = -1
	slices.SortStableFunc(pids, func(a, b int) int { return cmp.Compare(key[a], key[b]) })
	return pids
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
