package namespaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
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
// effective, Do makes it effective on its thread for the two system calls that change the
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
	return onThread(func() (restored bool, err error) { return within(fd, fn) })
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

// within calls fn in the namespace of fd on the calling thread, and reports whether the
// thread is as before.
func within(fd int, fn func() error) (restored bool, err error) {
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		own = -1 // the thread cannot return, and ends
	}
	defer unix.Close(own)
	if lowered, err := setns(fd); err != nil {
		err = fmt.Errorf("enter network namespace: %w", err)
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w: grant CAP_SYS_ADMIN, or run tcphup as root", err)
		}
		return lowered, err
	}
	err = fn()
	lowered, left := setns(own)
	return lowered && left == nil, err
}

// setns moves the calling thread to a network namespace. CAP_SYS_ADMIN is effective meanwhile
// if it is permitted. lowered is false if it stays effective, although it was not before: then
// err is not nil.
func setns(fd int) (lowered bool, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of this thread
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		return true, fmt.Errorf("read capabilities: %w", err)
	}
	raised := before
	raised[0].Effective |= before[0].Permitted & (1 << unix.CAP_SYS_ADMIN)
	if raised == before {
		return true, unix.Setns(fd, unix.CLONE_NEWNET)
	}
	if err := unix.Capset(&header, &raised[0]); err != nil {
		return true, fmt.Errorf("make CAP_SYS_ADMIN effective: %w", err)
	}
	err = unix.Setns(fd, unix.CLONE_NEWNET)
	if still := unix.Capset(&header, &before[0]); still != nil {
		return false, errors.Join(err, fmt.Errorf("make CAP_SYS_ADMIN ineffective: %w", still))
	}
	return true, err
}

// onThread calls fn on a thread of its own, which ends unless fn restored it. That thread is
// not the first one: /proc/self shows the namespace of the first thread.
func onThread(fn func() (restored bool, err error)) error {
	err := errors.New("function exited its goroutine")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err = onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		var restored bool
		if restored, err = fn(); restored {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return err
}
