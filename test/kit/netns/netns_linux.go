// Package netns starts processes in new namespaces and creates network namespaces that
// emulate other hosts. The kernel removes a namespace with its last process or descriptor.
package netns

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// CloneAttributes returns the attributes of a process with new network, mount and process
// id namespaces. The process must call Prepare first. It has process id 1: its children are
// killed when it exits, and it is killed when its parent thread exits. Starting it needs
// CAP_SYS_ADMIN.
func CloneAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
}

// Prepare sets up the namespaces of CloneAttributes. It makes mounts private, mounts a new
// /proc and brings the loopback device up.
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

// Namespace is a network namespace, for example of another host or pod.
type Namespace struct{ file *os.File }

// New creates an unnamed network namespace with only a loopback device, which is up. It needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN. The kernel removes the namespace after Close, when no
// process or socket uses it.
func New() (*Namespace, error) {
	var n *Namespace
	err := onNewThread(func() error {
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

// Open opens a network namespace by path, such as /run/netns/NAME or /proc/PID/ns/net.
func Open(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Namespace{file}, nil
}

// Path returns a path of the namespace, valid until Close for processes with the same /proc.
// Example: ip link set DEVICE netns PATH.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Close closes the descriptor of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

// Do calls fn in the namespace and returns its error. Sockets and processes of fn stay in the
// namespace.
func (n *Namespace) Do(fn func() error) error {
	return onNewThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

func onNewThread(fn func() error) error {
	done := make(chan error)
	go func() {
		// Without unlock the thread exits with the goroutine. No other goroutine runs on it
		// in the wrong namespace.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread does not exit, and /proc/self is about it.
			err := onNewThread(fn)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}
