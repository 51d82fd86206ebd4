package actuator

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
)

// noDescriptor is a descriptor that no process has open: pidfd_getfd returns EBADF only
// after the permission check, and duplicates nothing.
const noDescriptor = 1<<31 - 1

// probeProcesses checks access to the descriptors of every application process in /proc, or in
// a pod.
func probeProcesses(pod *hangup.Pod) Check {
	check := Check{Name: "processes"}
	proc, err := openProc()
	if err != nil {
		check.Detail = err.Error()
		return check
	}
	defer unix.Close(proc)
	pids, err := listProcesses(proc)
	if err != nil {
		check.Detail = err.Error()
		return check
	}
	var others, accessible int
	var example error
	for _, pid := range pids {
		if !mayBeApplication(pid) {
			continue
		}
		if owned, err := (holder{pid: pid}).isOf(pod); err == nil && !owned {
			continue
		}
		switch err := checkAccess(pid); {
		case err == nil:
			others++
			accessible++
		case errors.Is(err, unix.ESRCH), errors.Is(err, os.ErrNotExist):
		default:
			others++
			example = err
		}
	}
	check.Detail = fmt.Sprintf("%d of %d other processes are accessible", accessible, others)
	switch {
	case others == 0:
		check.Detail = "no application process is visible"
		// As process 1, tcphup has a pid namespace of its own: no application will join it.
		check.Pending = os.Getpid() != 1
		check.Fix = "start the application, or share the application's pid namespace (Kubernetes: shareProcessNamespace: true; Docker: --pid container:NAME)"
		if pod != nil {
			check.Fix = "start the application of the pod"
		}
	case accessible < others:
		check.Usable = accessible > 0
		check.Detail += fmt.Sprintf("; %v", example)
		check.Fix = accessHint()
	default:
		check.Usable = true
	}
	return check
}

// mayBeApplication reports whether a process is neither tcphup nor the process that holds the
// namespaces of a pod: pause in Kubernetes, catatonit in podman. A process without a readable
// name counts as an application.
func mayBeApplication(pid int) bool {
	switch command := commandOf(pid); command {
	case "pause", "catatonit":
		return false
	default:
		return pid != os.Getpid() && (command == "" || command != commandOf(os.Getpid()))
	}
}

// checkAccess returns nil if the descriptors of the process can be listed and duplicated.
func checkAccess(pid int) error {
	name := fmt.Sprintf("process %d (%s)", pid, commandOf(pid))
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer dir.Close()
	// A few names: the process may have a million descriptors.
	names, err := dir.Readdirnames(16)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, fd := range names {
		_, err := os.Readlink(filepath.Join(dir.Name(), fd))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		break
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("%s: pidfd_open: %w", name, err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, noDescriptor, 0)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.EBADF):
		return nil
	default:
		return fmt.Errorf("%s: pidfd_getfd: %w", name, err)
	}
}

// accessHint describes the missing access rights to other processes.
func accessHint() string {
	fix := "run with the application's uid and gid"
	if missing := missingCapabilities(); len(missing) > 0 {
		fix += ", or grant " + strings.Join(missing, " and ")
	}
	if scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err == nil {
		if s := strings.TrimSpace(string(scope)); s != "0" {
			fix += "; kernel.yama.ptrace_scope is " + s + ": 1 and 2 need CAP_SYS_PTRACE, 3 denies access"
		}
	}
	return fix
}
