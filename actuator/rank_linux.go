package actuator

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
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
	// cgroup is the id of the process's cgroup if a flow has the same, else 0.
	cgroup uint64
	// near is set for tcphup itself, and for processes with the user or the cgroup of a flow
	// or of a holder. Only these processes are scanned without a limit.
	near bool
	// elsewhere is set for a process of none of the flows' network namespaces.
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

// origin is the user and the cgroup of a socket.
type origin struct {
	uid    uint32
	cgroup uint64 // 0: unknown
}

func originOf(f *sockdiag.Flow) origin { return origin{f.UID, f.CgroupID} }

func (c candidate) isOf(o origin) bool {
	return c.uid == o.uid || c.cgroup != 0 && c.cgroup == o.cgroup
}

// rank sorts processes by how likely they hold a socket of the flows: processes with the
// user or the cgroup of a flow, then those of the network namespaces (by inode; 0 or none is
// our own), and among them those with few descriptors. This process is first: its own sockets
// must be found. It returns the flows of this scan, see affordable.
func rank(proc int, pids []int, flows []sockdiag.Flow, limit int64, namespaces []uint64) ([]candidate, []sockdiag.Flow) {
	var cgroups []uint64
	for i := range flows {
		cgroups = append(cgroups, flows[i].CgroupID)
	}
	cgroupOf := cgroupMembers(sortCompact(cgroups))
	if len(namespaces) == 0 || slices.Contains(namespaces, 0) {
		namespaces = append(slices.Clone(namespaces), namespaceInode(proc, os.Getpid()))
	}
	counted := countsDescriptors(proc)
	all := make([]candidate, len(pids))
	inParallel(len(pids), func() func(int) bool {
		return func(i int) bool {
			pid := pids[i]
			c := candidate{pid: pid, cgroup: cgroupOf[pid]}
			uid, ok := userOf(proc, pid)
			c.uid, c.near = uid, !ok || pid == os.Getpid()
			// A process with an unreadable namespace may be in any.
			net := namespaceInode(proc, pid)
			c.elsewhere = net != 0 && !slices.Contains(namespaces, net)
			if counted {
				c.descriptors = countDescriptors(proc, pid)
			}
			all[i] = c
			return true
		}
	})
	flows = affordable(all, flows, limit)
	for o := range origins(flows) {
		for i := range all {
			all[i].near = all[i].near || all[i].isOf(o)
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		return cmp.Or(
			falseFirst(a.pid != os.Getpid(), b.pid != os.Getpid()),
			falseFirst(!a.near, !b.near),
			falseFirst(a.elsewhere, b.elsewhere),
			cmp.Compare(a.descriptors, b.descriptors),
		)
	})
	return all, flows
}

// nearLimit is the limit of affordable for hang-ups: about a second.
const nearLimit = 250_000

// affordable returns the flows of the origins whose processes have the fewest descriptors:
// at least one origin, and as many as limit descriptors in total allow. Otherwise a user
// with millions of descriptors and one matching flow could delay the flows of all others.
func affordable(all []candidate, flows []sockdiag.Flow, limit int64) []sockdiag.Flow {
	costs := origins(flows)
	for o := range costs {
		for i := range all {
			if all[i].isOf(o) {
				costs[o] += all[i].descriptors
			}
		}
	}
	sum, kept := int64(0), make(map[origin]bool, len(costs))
	for _, o := range slices.SortedFunc(maps.Keys(costs), func(a, b origin) int { return cmp.Compare(costs[a], costs[b]) }) {
		if sum += costs[o]; sum > limit && len(kept) > 0 {
			break
		}
		kept[o] = true
	}
	return slices.DeleteFunc(slices.Clone(flows), func(f sockdiag.Flow) bool { return !kept[originOf(&f)] })
}

// origins returns the origins of the flows, with the value 0.
func origins(flows []sockdiag.Flow) map[origin]int64 {
	all := make(map[origin]int64)
	for i := range flows {
		all[originOf(&flows[i])] = 0
	}
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

// countsDescriptors reports whether the kernel counts descriptors (Linux 6.2).
func countsDescriptors(proc int) bool {
	var st unix.Stat_t
	return unix.Fstatat(proc, "self/fd", &st, 0) == nil && st.Size > 0
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

// cgroupMembers maps the processes of the cgroups (v2) with the given ids to these ids. It
// omits cgroups that are unreadable, and the root. It needs CAP_DAC_READ_SEARCH
// (open_by_handle_at(2)).
func cgroupMembers(ids []uint64) map[int]uint64 {
	root, err := unix.Open(cgroupMount(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(root)
	members := make(map[int]uint64)
	for _, id := range ids {
		if id <= rootCgroup {
			continue // contains every process
		}
		handle := unix.NewFileHandle(kernfsHandle, binary.NativeEndian.AppendUint64(nil, id))
		dir, err := unix.OpenByHandleAt(root, handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
		if err != nil {
			continue
		}
		procs, err := os.ReadFile(filepath.Join("/proc/self/fd", strconv.Itoa(dir), "cgroup.procs"))
		_ = unix.Close(dir)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(procs) {
			if pid := atoi(bytes.TrimSpace(line)); pid > 0 {
				members[pid] = id
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
