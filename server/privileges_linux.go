package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	libcap "kernel.org/pub/linux/libs/security/libcap/cap"
)

// hideMemory makes the process undumpable (PR_SET_DUMPABLE in prctl(2)). Then processes
// of the same user, such as the application beside a sidecar, cannot attach or read the
// tokens in its memory through /proc. It also disables core dumps.
func hideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set process undumpable: %w", err)
	}
	return nil
}

// duties are the tasks of a process that need capabilities.
type duties struct {
	hangsUp    bool // connections, for alerts
	readsFiles bool // again, that other users may own
	node       bool // reads network namespaces of pods
}

// dropPrivileges permanently drops all unneeded capabilities of all threads and returns
// the remaining ones. The permitted and effective sets keep the needed capabilities
// (isNeeded), the effective set without CAP_SYS_ADMIN in node mode; the inheritable and ambient
// sets become empty. With CAP_SETPCAP the bounding set becomes empty too. Without, no_new_privs
// prevents that execve(2) grants capabilities.
func dropPrivileges(d duties) (*libcap.Set, error) {
	if _, err := libcap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	have, err := libcap.GetPID(0)
	if err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	keep, err := have.Dup()
	if err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	var all, unneeded []libcap.Value
	for v := range libcap.MaxBits() {
		all = append(all, v)
		if !isNeeded(v, have, d) {
			unneeded = append(unneeded, v)
		}
	}
	ineffective := unneeded
	if d.node {
		if !holds(have, libcap.Permitted, libcap.SYS_ADMIN) || !holds(have, libcap.Permitted, libcap.SYS_PTRACE) {
			return nil, errors.New("--node needs CAP_SYS_ADMIN and CAP_SYS_PTRACE: grant both, or run tcphup as root")
		}
		ineffective = append(slices.Clone(unneeded), libcap.SYS_ADMIN)
	}
	if holds(have, libcap.Effective, libcap.SETPCAP) {
		if err := libcap.DropBound(all...); err != nil {
			return nil, fmt.Errorf("drop capabilities from the bounding set: %w", err)
		}
	}
	if err := libcap.ResetAmbient(); err != nil {
		return nil, fmt.Errorf("drop ambient capabilities: %w", err)
	}
	if err := errors.Join(
		keep.SetFlag(libcap.Effective, false, ineffective...),
		keep.SetFlag(libcap.Permitted, false, unneeded...),
		keep.ClearFlag(libcap.Inheritable),
	); err != nil {
		return nil, fmt.Errorf("drop capabilities: %w", err)
	}
	if difference, err := have.Cf(keep); err != nil || difference != 0 {
		if err := keep.SetProc(); err != nil {
			return nil, fmt.Errorf("drop capabilities: capset: %w", err)
		}
	}
	return keep, nil
}

// isNeeded reports whether a process with the capabilities have needs v.
//
// CAP_DAC_READ_SEARCH is for reloading configuration files of other users and for listing
// the descriptors of their processes. CAP_DAC_OVERRIDE is its substitute, for example for
// root in a container. In addition, shutdown needs CAP_SYS_PTRACE and destroy needs
// CAP_NET_ADMIN.
//
// Without CAP_SYS_PTRACE, ptrace access to a process of the same user requires a superset
// of its capabilities (cap_ptrace_access_check in the kernel). So all must be kept.
//
// Node mode also needs CAP_SYS_ADMIN and CAP_SYS_PTRACE to enter network namespaces, and
// CAP_DAC_READ_SEARCH for the names of pods.
func isNeeded(v libcap.Value, have *libcap.Set, d duties) bool {
	reads := v == libcap.DAC_READ_SEARCH ||
		v == libcap.DAC_OVERRIDE && !holds(have, libcap.Permitted, libcap.DAC_READ_SEARCH)
	switch {
	case d.node:
		return reads || v == libcap.SYS_ADMIN || v == libcap.SYS_PTRACE || v == libcap.NET_ADMIN && d.hangsUp
	case !d.hangsUp:
		return reads && d.readsFiles
	case !holds(have, libcap.Permitted, libcap.SYS_PTRACE):
		return true
	default:
		return reads || v == libcap.SYS_PTRACE || v == libcap.NET_ADMIN
	}
}

// holds is GetFlag for a valid flag and capability.
func holds(s *libcap.Set, flag libcap.Flag, v libcap.Value) bool {
	held, err := s.GetFlag(flag, v)
	return err == nil && held
}

// capabilityNames lists the permitted capabilities for the log.
func capabilityNames(s *libcap.Set) string {
	var names []string
	for v := range libcap.MaxBits() {
		if holds(s, libcap.Permitted, v) {
			names = append(names, v.String())
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ",")
}
