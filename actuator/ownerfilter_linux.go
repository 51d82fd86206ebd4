package actuator

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// FilterOwners returns the owners of the flows among the processes that match the filter. A
// socket without such an owner is absent. Capabilities are those of FindOwners.
func FilterOwners(ctx context.Context, flows []sockdiag.Flow, filter *hangup.OwnerFilter) (Owners, error) {
	found, err := findMatching(ctx, inodesOf(flows), filter)
	if err != nil {
		return Owners{}, fmt.Errorf("find owners: %w", err)
	}
	return newOwners(found), nil
}

// selectByOwner removes flows from the plan that no process of the owner filter holds. It
// scans the matching processes, and then the others for the flows of unknown owner only.
func (x *action) selectByOwner(ctx context.Context, p *targetSelection, report *hangup.Report) error {
	if x.Owner.IsZero() {
		return nil
	}
	in, inodes := inodesOfNamespaces(p.targets), slices.Concat(p.leftAlone, p.lacking, p.closing)
	for _, t := range p.targets {
		inodes = append(inodes, t.Flow.Inode)
	}
	selected, err := findMatching(ctx, sortCompact(inodes), &x.Owner)
	if err != nil {
		return fmt.Errorf("find owners: %w", err)
	}
	isOther := func(inode uint32) bool { return len(selected.byInode[inode]) == 0 }
	for _, counted := range []*[]uint32{&p.leftAlone, &p.lacking, &p.closing} {
		*counted = slices.DeleteFunc(*counted, isOther)
	}
	var rest []sockdiag.Flow
	p.targets = slices.DeleteFunc(p.targets, func(t *target) bool {
		other := isOther(t.Flow.Inode)
		if other {
			rest = append(rest, t.Flow)
		}
		return other
	})
	found, err := findOwners(ctx, rest, nearLimit, false, in)
	if err != nil {
		return fmt.Errorf("find owners: %w", err)
	}
	report.UnknownOwner = found.countUnknown(rest)
	report.OtherOwner = len(rest) - report.UnknownOwner
	countProcesses(report, found)
	return nil
}

func countProcesses(report *hangup.Report, found *owners) {
	report.Processes, report.Unreadable, report.Unsearched = found.processes, found.unreadable, found.unsearched
}

// countUnknown counts the flows with an inode and without a holder. Deferred flows are not
// counted: they belong to processes with many descriptors.
func (o *owners) countUnknown(flows []sockdiag.Flow) int {
	n := 0
	for i := range flows {
		inode := flows[i].Inode
		_, deferred := slices.BinarySearch(o.deferred, inode)
		if inode != 0 && len(o.byInode[inode]) == 0 && !deferred {
			n++
		}
	}
	return n
}

// findMatching scans the processes that match the filter, in full.
func findMatching(ctx context.Context, inodes []uint32, filter *hangup.OwnerFilter) (*owners, error) {
	inodes = slices.DeleteFunc(inodes, func(inode uint32) bool { return inode == 0 })
	if len(inodes) == 0 {
		return &owners{}, nil
	}
	proc, pids, err := openProcesses()
	if err != nil {
		return nil, err
	}
	defer unix.Close(proc)
	var matching []int
	for _, pid := range pids {
		matches, err := matchesFilter(pid, filter)
		if err != nil {
			return nil, err
		}
		if matches {
			matching = append(matching, pid)
		}
	}
	return scanProcesses(ctx, proc, nearby(matching...), inodes, false)
}

// matchesFilter reads the properties of a process that the filter needs. A process that has
// ended does not match. The error is a lack of descriptors or memory.
func matchesFilter(pid int, filter *hangup.OwnerFilter) (bool, error) {
	p := hangup.Process{PID: pid}
	if len(filter.PIDs) > 0 && !slices.Contains(filter.PIDs, pid) {
		return false, nil
	}
	var err error
	if len(filter.UIDs) > 0 {
		var st unix.Stat_t
		if err := unix.Stat("/proc/"+strconv.Itoa(pid), &st); err != nil {
			return false, onlyExhausted(err)
		}
		p.UID = st.Uid
	}
	if len(filter.Commands) > 0 {
		if p.Command, err = readCommand(pid); err != nil {
			return false, err
		}
	}
	if len(filter.Cgroups) > 0 {
		if p.Cgroups, err = cgroupPaths(pid); err != nil {
			return false, err
		}
	}
	return filter.Matches(&p), nil
}

// cgroupPaths returns the paths of a process's cgroups in all hierarchies, from
// /proc/PID/cgroup (cgroups(7)). The error is a lack of descriptors or memory.
func cgroupPaths(pid int) ([]string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, onlyExhausted(err)
	}
	var paths []string
	for line := range strings.Lines(string(content)) {
		// hierarchy-ID:controller-list:cgroup-path
		if fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(fields) == 3 {
			paths = append(paths, fields[2])
		}
	}
	return paths, nil
}

// restrictsOwners reports whether only processes of the owner filter, or of the pod, may hold the
// socket.
func (x *action) restrictsOwners(t *target) bool { return !x.Owner.IsZero() || t.pod() != nil }

// ownersMatch reports whether each holder still has the socket, matches the owner filter and
// is of the pod. Otherwise it defers the flow to another search for its owners, or refuses it.
// The holders are as old as ownersFresh: a process that inherited the socket since is not
// among them. A flow that its application has closed since it was selected has no holder.
func (x *action) ownersMatch(ctx context.Context, t *target, now *sockdiag.Flow) bool {
	switch {
	case !x.restrictsOwners(t), now.Inode == 0:
		return true
	case !x.ownersAreFresh(t):
		t.phase = phaseOwnerLost
		return false
	case len(t.holders) == 0 && t.pod() != nil:
		t.refuse(hangup.ReasonIdentity, x.access(t).noHolder())
		return false
	case len(t.holders) == 0:
		t.refuse(hangup.ReasonIdentity, "no visible process holds the socket any more")
		return false
	}
	outside, err := x.outsider(t)
	switch {
	case err != nil:
		t.failUnlessDone(ctx, hangup.None, err)
		return false
	case outside == "":
		return true
	case t.searchedAgain:
		t.refuse(hangup.ReasonIdentity, outside)
		return false
	default:
		// The holder may be a child between fork(2) and execve(2), which closes the socket.
		t.searchedAgain, t.phase = true, phaseOwnerLost
		return false
	}
}

// outsider describes a holder that no longer has the socket, does not match the owner filter
// or is not of the pod. It returns "" if there is none.
func (x *action) outsider(t *target) (string, error) {
	for _, h := range t.holders {
		if !h.has(t.Flow.Inode) {
			return fmt.Sprintf("process %d (%s) has closed the socket, and another may hold it", h.pid, commandOf(h.pid)), nil
		}
		matches, err := matchesFilter(h.pid, &x.Owner)
		if err != nil {
			return "", fmt.Errorf("read properties of process %d: %w", h.pid, err)
		}
		if !matches {
			return fmt.Sprintf("process %d (%s) holds the socket and is not selected by the owner filter", h.pid, commandOf(h.pid)), nil
		}
		owned, err := h.isOf(t.pod())
		if err != nil {
			return "", fmt.Errorf("read cgroup of process %d: %w", h.pid, err)
		}
		if !owned {
			return fmt.Sprintf("process %d (%s) holds the socket and is not of pod %s", h.pid, commandOf(h.pid), t.Namespace), nil
		}
	}
	return "", nil
}

// isOf reports whether the holder is of the pod, by its cgroup; nil includes every process. A
// process that has ended is of no pod. The error is a lack of descriptors or memory.
func (h holder) isOf(pod *hangup.Pod) (bool, error) {
	if pod == nil {
		return true, nil
	}
	content, err := os.ReadFile(h.file("cgroup"))
	if err != nil {
		return false, onlyExhausted(err)
	}
	return pod.Owns != nil && pod.Owns(string(content)), nil
}

func (x *action) ownersAreFresh(t *target) bool {
	return time.Since(t.ownersAt) <= ownersFresh<<min(x.lostRounds, 10)
}

// has reports whether the descriptor of the holder is the socket with this inode.
func (h holder) has(inode uint32) bool {
	link, err := os.Readlink(h.file("fd/" + strconv.Itoa(h.fd)))
	return err == nil && parseSocketLink([]byte(link)) == inode
}

// file returns the path of a file of the holder in /proc.
func (h holder) file(name string) string {
	if h.tid != 0 {
		return fmt.Sprintf("/proc/%d/task/%d/%s", h.pid, h.tid, name)
	}
	return fmt.Sprintf("/proc/%d/%s", h.pid, name)
}
