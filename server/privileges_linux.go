package server

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	libcap "kernel.org/pub/linux/libs/security/libcap/cap"
)

// hideMemory keeps other processes of the same user from attaching to this one and
// from reading its memory, and with it the tokens, through /proc (PR_SET_DUMPABLE):
// as a side-car it may run as the application's user. It writes no core dump either.
func hideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make undumpable: %w", err)
	}
	return nil
}

// dropPrivileges gives up, for all threads and for good, every capability that is
// not needed from now on, and returns those that remain: of the permitted and the
// effective set those that isNeeded names, of the inheritable and the ambient set
// none. The bounding set is emptied where CAP_SETPCAP allows it; what is left in
// it cannot be had, because no program that is executed is granted anything any
// more (no_new_privs).
func dropPrivileges(hangsUp, readsFiles bool) (*libcap.Set, error) {
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
		if !isNeeded(v, have, hangsUp, readsFiles) {
			unneeded = append(unneeded, v)
		}
	}
	if holds(have, libcap.Effective, libcap.SETPCAP) {
		if err := libcap.DropBound(all...); err != nil {
			return nil, fmt.Errorf("drop capabilities from the bounding set: %w", err)
		}
	}
	if err := libcap.ResetAmbient(); err != nil {
		return nil, fmt.Errorf("drop ambient capabilities: %w", err)
	}
	for _, flag := range []libcap.Flag{libcap.Effective, libcap.Permitted} {
		if err := keep.SetFlag(flag, false, unneeded...); err != nil {
			return nil, fmt.Errorf("drop capabilities: %w", err)
		}
	}
	if err := keep.ClearFlag(libcap.Inheritable); err != nil {
		return nil, fmt.Errorf("drop capabilities: %w", err)
	}
	if difference, err := have.Cf(keep); err != nil || difference != 0 {
		if err := keep.SetProc(); err != nil {
			return nil, fmt.Errorf("drop capabilities, which takes the system call capset: %w", err)
		}
	}
	return keep, nil
}

// isNeeded reports whether a capability is of use to a process that has those of
// have.
//
// CAP_DAC_READ_SEARCH reads the files of its configuration again when they belong
// to another user, and lists the descriptors of other users' processes. Where
// CAP_DAC_OVERRIDE alone was granted, as to the root of a container, that does it.
// Shutdown needs CAP_SYS_PTRACE besides, destroy CAP_NET_ADMIN.
//
// Without CAP_SYS_PTRACE the kernel compares: a process of the same user can be
// reached by one that has all the capabilities which that process has
// (cap_ptrace_access_check). To drop any would be to lose it.
func isNeeded(v libcap.Value, have *libcap.Set, hangsUp, readsFiles bool) bool {
	reads := v == libcap.DAC_READ_SEARCH ||
		v == libcap.DAC_OVERRIDE && !holds(have, libcap.Permitted, libcap.DAC_READ_SEARCH)
	switch {
	case !hangsUp:
		return reads && readsFiles
	case !holds(have, libcap.Permitted, libcap.SYS_PTRACE):
		return true
	default:
		return reads || v == libcap.SYS_PTRACE || v == libcap.NET_ADMIN
	}
}

// holds is GetFlag of a set and a capability that are known to be valid.
func holds(s *libcap.Set, flag libcap.Flag, v libcap.Value) bool {
	held, err := s.GetFlag(flag, v)
	return err == nil && held
}

// capabilityNames lists what is permitted, for people.
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
