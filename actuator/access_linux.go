package actuator

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	howToDestroy = "grant CAP_NET_ADMIN"
	noDestroy    = "this kernel is built without CONFIG_INET_DIAG_DESTROY"
)

// access is the access of tcphup to other processes. It selects the advice for a flow
// that cannot be shut down.
type access struct {
	processes, unreadable, unsearched int // of the /proc scan
	// notDumpable is an unreadable process of the socket's uid that is not dumpable, or "".
	notDumpable string
	// hidden is set if /proc omits processes of other users (mount option hidepid).
	hidden bool
	// missing are the capabilities that are not effective: see missingCapabilities.
	missing []string
	root    bool
	// container is set outside of the initial pid namespace.
	container bool
}

// initialPIDNamespace is PROC_PID_INIT_INO of include/linux/proc_ns.h.
const initialPIDNamespace = 0xEFFFFFFC

func (x *action) access(t *target) access {
	a := access{missing: missingCapabilities(), root: os.Geteuid() == 0}
	if t.scan != nil {
		a.processes, a.unreadable, a.unsearched = t.scan.processes, t.scan.unreadable, t.scan.unsearched
		if pid, ok := t.scan.notDumpable[t.Flow.UID]; ok {
			a.notDumpable = fmt.Sprintf("process %d (%s)", pid, x.processes.get(pid).command)
		}
	}
	// Every pid namespace has a process 1.
	_, err := os.Stat("/proc/1")
	a.hidden = errors.Is(err, os.ErrNotExist)
	var ns unix.Stat_t
	a.container = unix.Stat("/proc/self/ns/pid", &ns) == nil && ns.Ino != initialPIDNamespace
	return a
}

// noHolder explains why no holder of a socket was found, and how to find it.
func (a access) noHolder() string {
	const elsewhere = "it is in flight between processes, held by io_uring alone, or its process has ended"
	const none = "no visible process holds the socket: "
	switch {
	case a.unreadable == 0 && a.unsearched > 0:
		return none + fmt.Sprintf("%d processes of other users were not searched in %s", a.unsearched, missingLimit)
	case a.unreadable == 0 && !a.hidden && a.container:
		return "no process of this pid namespace holds the socket: " + elsewhere + ", or is in another pid namespace (Kubernetes: shareProcessNamespace)"
	case a.unreadable == 0 && !a.hidden:
		return "no process holds the socket: " + elsewhere
	case len(a.missing) == 0:
		return none + fmt.Sprintf("a user namespace or a security module denies access to %d of %d processes", a.unreadable, a.processes)
	case a.notDumpable != "":
		// The uid and gid of the process would not help.
		return none + a.notDumpable + " is not dumpable: " + a.asRoot() + "grant CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE"
	case a.container:
		return none + "run as its uid and gid with CAP_SYS_PTRACE allowed, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, " +
			"in its pid namespace (Kubernetes: shareProcessNamespace)"
	default:
		return none + a.asRoot() + "grant " + strings.Join(a.missing, " and ")
	}
}

// asRoot is the shortest advice on a host for other users, followed by "or".
func (a access) asRoot() string {
	if a.root || a.container {
		return ""
	}
	return "run tcphup as root (sudo), or "
}

// howToAttach describes how to allow pidfd_getfd(2), after the descriptors were readable.
func (a access) howToAttach() string {
	const profile = "a seccomp profile that allows pidfd_getfd, and kernel.yama.ptrace_scope "
	if !slices.Contains(a.missing, sysPtrace) {
		return "use " + profile + "below 3"
	}
	return a.asRoot() + "grant " + sysPtrace + ", " + profile + "0 or 1 with the capability"
}
