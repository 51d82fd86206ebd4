// Package netns gives a process and its children namespaces of their own, and makes
// network namespaces that stand for further hosts. All of them end with the last
// process that has them, however it ends.
package netns

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Own is for a process that is to have new network, mount and process id namespaces,
// in which it calls Prepare first. It has the process id 1 there: what it starts ends
// with it, and it ends with its parent. It takes root to start it.
func Own() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
}

// Prepare makes the namespaces of Own usable: no mount is seen outside of them,
// /proc shows the processes inside, and the loopback device is up.
func Prepare() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return loopbackUp()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}

// Namespace is a network namespace, as another host or pod has it.
type Namespace struct{ file *os.File }

// New makes one with nothing in it but the loopback device, which is up. It has no
// name and is gone once it is closed and no socket, device or process is in it. It
// needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
func New() (*Namespace, error) {
	var n *Namespace
	err := onThreadOfItsOwn(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		var err error
		if n, err = Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return loopbackUp()
	})
	return n, err
}

// Open returns the network namespace that a file stands for: one in /run/netns, or
// /proc/PID/ns/net.
func Open(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Namespace{file}, nil
}

// Path is a file that stands for the namespace as long as it is open. Processes with
// the same /proc may use it, as in ip link set DEVICE netns PATH.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Close gives the namespace up.
func (n *Namespace) Close() error { return n.file.Close() }

// Do calls fn in the namespace and returns its error. The sockets that it opens stay
// there, and so do the processes that it starts.
func (n *Namespace) Do(fn func() error) error {
	return onThreadOfItsOwn(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

func onThreadOfItsOwn(fn func() error) error {
	done := make(chan error)
	go func() {
		// The thread is not unlocked, so it ends with the goroutine and never runs
		// anything else in the wrong namespace.
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}
