package namespaces

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Do is Namespace.Do for the namespace of a pod. While the namespace is open, and therefore
// exists, it checks that a process in it is of the pod. Otherwise the error matches ErrEnded,
// and fn was not called.
func (n *PodNamespace) Do(fn func() error) error {
	return n.do(func(fd int) error {
		if n.Own {
			return fn()
		}
		return within(fd, fn)
	})
}

// DoHere is Do on the calling thread, which stays in the namespace. It must be a thread of
// thread.Go. Calls of DoHere may follow each other, which takes less time than Do: no other
// thread has to wake up. After an error that does not match ErrEnded and is not that of fn, the
// thread must end: CAP_SYS_ADMIN may still be effective on it.
func (n *PodNamespace) DoHere(fn func() error) error {
	return n.do(func(fd int) error { return withinHere(fd, fn) })
}

// do calls fn with the namespace, while it is open.
func (n *PodNamespace) do(fn func(fd int) error) error {
	fd, err := n.openPod()
	if err != nil {
		return fmt.Errorf("open network namespace %s of pod %s: %w", n, n.UID, err)
	}
	defer unix.Close(fd)
	return fn(fd)
}

// openPod opens the namespace by a process that is of the pod.
func (n *PodNamespace) openPod() (int, error) {
	result := ErrEnded
	for _, m := range n.members {
		fd, err := n.openBy(m)
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, os.ErrPermission):
			result = fmt.Errorf("%w: grant CAP_SYS_PTRACE, or run tcphup as root", err)
		case hasEnded(err), errors.Is(err, errNotOfPod):
		default:
			return -1, err
		}
	}
	return -1, result
}

// errNotOfPod matches errors about a process of another pod or of another namespace.
var errNotOfPod = errors.New("process is not of the pod, or not in its namespace")

// openBy opens the namespace by a process. Its cgroup is read between two checks of its
// namespace, while the namespace is open.
func (n *PodNamespace) openBy(m member) (int, error) {
	p, err := openProcess(m)
	if err != nil {
		return -1, err
	}
	defer p.close()
	fd, err := unix.Openat(p.dir, "ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.EACCES) && unix.Faccessat(p.dir, "stat", unix.F_OK, 0) != nil {
			err = unix.ESRCH // it has just ended, see threadNamespace
		}
		return -1, err
	}
	var st unix.Stat_t
	origin, err := Origin{}, unix.Fstat(fd, &st)
	if err == nil && (ID{Device: st.Dev, Inode: st.Ino}) != n.ID {
		err = errNotOfPod
	}
	if err == nil {
		origin, err = p.origin()
	}
	if err == nil && (origin.PodUID != n.UID || p.in(n.ID) != nil) {
		err = errNotOfPod
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
