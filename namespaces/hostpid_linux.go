package namespaces

import (
	"errors"
	"fmt"
	"os"
)

// errNoHostPID is the error of a /proc without the processes of the node.
var errNoHostPID = errors.New("not in the pid namespace of the node: set hostPID: true in the pod, or run tcphup outside of containers")

// checkHostPID checks that process 1 is the init of a node. In a container it is the program of
// the container, or the process that holds the namespaces of a pod. self is the process id of
// tcphup.
func checkHostPID(self int) error {
	if self == 1 {
		return fmt.Errorf("find pods: tcphup is process 1: %w", errNoHostPID)
	}
	origin, err := processOrigin(1)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("find pods: process 1 is hidden: grant CAP_SYS_PTRACE, or mount /proc without the option hidepid")
	case err != nil:
		return fmt.Errorf("find pods: read cgroup of process 1: %w", err)
	case origin.PodUID != "" || origin.Container != "":
		return fmt.Errorf("find pods: process 1 runs in a container: %w", errNoHostPID)
	}
	return nil
}

// processOrigin returns the origin of a process or thread.
func processOrigin(tid int) (Origin, error) {
	p, err := openProcess(member{tid, tid})
	if err != nil {
		return Origin{}, err
	}
	defer p.close()
	return p.origin()
}

// nodeNamespace returns the network namespace of process 1. If it cannot be read, id is the zero
// ID, and outside has the namespaces with a process outside of pods, one of which is that of the
// node.
//
// Then other processes outside of pods must be readable, all of them. Otherwise the namespace of
// the node could look like that of its only readable hostNetwork pod. An AppArmor profile, for
// example, can allow to read the processes of containers only.
func (f *Found) nodeNamespace() (id ID, outside map[ID]bool, err error) {
	id, err = statID("/proc/1/ns/net")
	if err == nil {
		return id, nil, nil
	}
	unreadable := 0
	for _, pid := range f.unreadable {
		if origin, err := processOrigin(pid); pid != 1 && err == nil && origin.PodUID == "" {
			unreadable++
		}
	}
	outside = make(map[ID]bool)
	for i := range f.Namespaces {
		if f.Namespaces[i].hasOutsider() {
			outside[f.Namespaces[i].ID] = true
		}
	}
	if unreadable > 0 || len(outside) == 0 {
		return ID{}, nil, fmt.Errorf("find pods: read network namespaces of process 1 and %d other processes outside of pods: %w: "+
			"grant CAP_SYS_PTRACE, and allow ptrace (read) of unconfined processes in an AppArmor profile", unreadable, err)
	}
	return ID{}, outside, nil
}

// hasOutsider reports whether a process of the namespace is of no pod.
func (n *Namespace) hasOutsider() bool {
	for _, m := range n.members {
		if o, err := n.originOf(m); err == nil && o.PodUID == "" {
			return true
		}
	}
	return false
}
