package namespaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tcphup/internal/thread"
)

// ErrEnded matches errors about a namespace that has ended: no process is in it, and it has no
// name. They match os.ErrNotExist as well.
var ErrEnded = fmt.Errorf("namespace has ended: %w", os.ErrNotExist)

// Do calls fn on a thread in the namespace and returns its error. Sockets that fn creates
// belong to the namespace, and files of /proc/sys/net that it opens are those of the
// namespace; goroutines that it starts run outside. For the namespace of this process, Do
// calls fn directly. Do must not be called within fn.
//
// It needs CAP_SYS_PTRACE, and CAP_SYS_ADMIN in the permitted set. If CAP_SYS_ADMIN is not
// effective, Do makes it effective on its thread for the system call that changes the
// namespace, and not while fn runs. The error matches os.ErrPermission without the capabilities,
// and ErrEnded if the namespace has ended; fn was not called then.
func (n *Namespace) Do(fn func() error) error {
	if n.Own {
		return fn()
	}
	fd, err := n.open()
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", n, err)
	}
	defer unix.Close(fd)
	return within(fd, fn)
}

// open opens the namespace: a process id may belong to a process of another namespace by
// now. It does not look for processes that entered the namespace since Discover: after the
// end of the namespace, another one may have its inode.
func (n *Namespace) open() (int, error) {
	paths := make([]string, 0, len(n.members)+1)
	for _, m := range n.members {
		paths = append(paths, fmt.Sprintf("/proc/%d/ns/net", m.tid))
	}
	if n.file != "" {
		paths = append(paths, n.file)
	}
	result := ErrEnded
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, unix.EACCES) && unix.Access(filepath.Dir(filepath.Dir(path)), unix.F_OK) != nil:
			continue // it has just ended, see threadNamespace
		case errors.Is(err, os.ErrPermission):
			result = fmt.Errorf("%w: grant CAP_SYS_PTRACE, or run tcphup as root", err)
			continue
		case hasEnded(err):
			continue
		case err != nil:
			return -1, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err == nil && (ID{Device: st.Dev, Inode: st.Ino}) == n.ID {
			return fd, nil
		}
		_ = unix.Close(fd)
	}
	return -1, result
}

// setns moves the calling thread to a network namespace. CAP_SYS_ADMIN is effective meanwhile
// if it is permitted.
func setns(fd int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of this thread
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	raised := before
	raised[0].Effective |= before[0].Permitted & (1 << unix.CAP_SYS_ADMIN)
	if raised == before {
		return unix.Setns(fd, unix.CLONE_NEWNET)
	}
	if err := unix.Capset(&header, &raised[0]); err != nil {
		return fmt.Errorf("make CAP_SYS_ADMIN effective: %w", err)
	}
	err := unix.Setns(fd, unix.CLONE_NEWNET)
	if still := unix.Capset(&header, &before[0]); still != nil {
		err = errors.Join(err, fmt.Errorf("make CAP_SYS_ADMIN ineffective: %w", still))
	}
	return err
}

// within calls fn on a thread of its own in the namespace of fd.
func within(fd int, fn func() error) error {
	err := errors.New("function exited its goroutine")
	<-thread.Go(func() { err = withinHere(fd, fn) })
	return err
}

// withinHere moves the calling thread to the namespace of fd and calls fn.
func withinHere(fd int, fn func() error) error {
	err := setns(fd)
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: grant CAP_SYS_ADMIN, or run tcphup as root", err)
	}
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return fn()
}
