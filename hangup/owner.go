package hangup

import (
	"fmt"
	"slices"
	"strings"
)

// OwnerFilter selects flows by the processes that hold their sockets. A process matches if it
// has one of the values of each field that is not empty. A flow is hung up only if every
// process that holds its socket matches. The zero value selects every flow, also flows
// without a visible process.
type OwnerFilter struct {
	PIDs []int
	// Commands are names in /proc/PID/comm, in printable form.
	Commands []string
	// UIDs are effective users of processes. The user of a socket may differ: it does not
	// change after the process changes its own.
	UIDs []uint32
	// Cgroups are paths of cgroups as in /proc/PID/cgroup, see ParseCgroup. They match the
	// cgroups below them too, in any hierarchy.
	Cgroups []string
}

// IsZero reports whether the filter selects every flow.
func (f *OwnerFilter) IsZero() bool {
	return len(f.PIDs) == 0 && len(f.Commands) == 0 && len(f.UIDs) == 0 && len(f.Cgroups) == 0
}

// Process has the properties of a process that an OwnerFilter compares.
type Process struct {
	PID     int
	Command string   // as in /proc/PID/comm, in printable form
	UID     uint32   // effective
	Cgroups []string // the paths of all hierarchies
}

// Matches reports whether the filter selects a process.
func (f *OwnerFilter) Matches(p *Process) bool {
	return anyOrEmpty(f.PIDs, func(pid int) bool { return pid == p.PID }) &&
		anyOrEmpty(f.Commands, func(command string) bool { return command == p.Command }) &&
		anyOrEmpty(f.UIDs, func(uid uint32) bool { return uid == p.UID }) &&
		anyOrEmpty(f.Cgroups, func(prefix string) bool {
			return slices.ContainsFunc(p.Cgroups, func(path string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") })
		})
}

func anyOrEmpty[T any](values []T, equal func(T) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, equal)
}

// ParseCgroup returns the path of a cgroup as in /proc/PID/cgroup, without a slash at the end.
// The root is an error: it has every process.
func ParseCgroup(s string) (string, error) {
	path := strings.TrimSuffix(s, "/")
	parts := strings.Split(path, "/")
	switch {
	case path == "":
		return "", fmt.Errorf("%q has every process: write the path of a cgroup, such as /system.slice/app.service", s)
	case path == cgroupMount || strings.HasPrefix(path, cgroupMount+"/"):
		return "", fmt.Errorf("%q is a directory: write the path as in /proc/PID/cgroup, such as /system.slice/app.service", s)
	case parts[0] != "" || slices.ContainsFunc(parts[1:], func(part string) bool { return part == "" || part == "." || part == ".." }):
		return "", fmt.Errorf("%q is not the path of a cgroup as in /proc/PID/cgroup, such as /system.slice/app.service", s)
	}
	return path, nil
}

// cgroupMount is the usual mount point of cgroup file systems.
const cgroupMount = "/sys/fs/cgroup"
