package namespaces

import (
	"cmp"
	"os"
	"slices"
	"sync"
	"time"
)

// maxNodeProcesses limits the processes of a network namespace whose cgroup and start
// Node.Discover reads: in that of the node to count hostNetwork pods, in that of a pod to find
// its first process.
const maxNodeProcesses = 4096

// Node finds the network namespaces of the pods of a Kubernetes node. It needs the pid
// namespace of the node. Its methods may be called concurrently.
type Node struct {
	// PodLogs is the directory with the names of the pods, see ReadPods.
	PodLogs string

	mu        sync.Mutex // held by Discover
	clock     bootClock
	processes podProcesses
	self      int // process id of tcphup; 0 means that of this process
}

// PodNamespace is the network namespace of one pod at the time of Node.Discover.
type PodNamespace struct {
	Namespace
	// UID is the uid of the pod, or the hash of a static pod.
	UID string
	// Pod is the name; it is the zero Pod if the name is unknown.
	Pod Pod
	// Started is when the first process of the pod in the namespace started. It has a resolution
	// of 10 ms, and changes only with that process or if the wall clock is set.
	Started time.Time
}

// NodePods is the result of Node.Discover.
type NodePods struct {
	// Namespaces has at most one namespace for each pod, in the order of Namespace.PID.
	Namespaces []PodNamespace
	// Node counts the network namespaces of the node itself: 1, or 0 if that of process 1 could
	// not be read.
	Node int
	// Other counts the other namespaces with processes: without a process of a pod, with
	// processes of several pods, and those that a pod has in addition to its first one.
	Other int
	// HostNetwork counts the pods that use the network namespace of the node. It is a lower bound
	// if more than 4096 processes use that namespace, and 0 if Node is 0.
	HostNetwork int
	// Shared are the pods whose only namespace, a part of Other, has processes of other pods as well.
	Shared []PodNamespace
	// Unnamed counts the elements of Namespaces whose name is unknown.
	Unnamed int
	// Unreadable counts the processes whose namespace could not be read: permission denied.
	Unreadable int
}

// Discover returns the network namespaces of the pods. A namespace is that of a pod if the
// processes with the lowest ids in it are of this pod and of no other one, and if it is not the
// namespace of process 1. If that cannot be read, a namespace with a process outside of pods is
// not that of a pod.
//
// The namespace of this process is treated like any other one. If this process runs in a cgroup
// namespace of its own, its pod is unknown and the namespace counts as Other.
//
// It needs CAP_SYS_PTRACE, and fails if /proc shows the processes of a container or pod instead
// of those of the node.
func (n *Node) Discover() (*NodePods, error) {
	if err := checkHostPID(cmp.Or(n.self, os.Getpid())); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.processes.begin()
	found, err := find()
	if err != nil {
		return nil, err
	}
	names, err := ReadPods(n.PodLogs)
	if err != nil {
		return nil, err
	}
	boot := n.clock.origin()
	nodeID, outside, err := found.nodeNamespace()
	if err != nil {
		return nil, err
	}
	result := &NodePods{Unreadable: found.Unreadable}
	byUID, shared := make(map[string]PodNamespace), make(map[string]PodNamespace)
	var node *Namespace
	for i := range found.Namespaces {
		ns := &found.Namespaces[i]
		switch {
		case len(ns.members) == 0: // /proc does not show this process
			continue
		case ns.ID == nodeID:
			node = ns
			result.Node++
			continue
		}
		pod, ok := n.podOf(ns, boot)
		if !ok || outside[ns.ID] {
			result.Other++
			for uid, started := range n.podsOf(ns, boot, maxOrigins) {
				shared[uid] = PodNamespace{Namespace: *ns, UID: uid, Started: started}
			}
			continue
		}
		// The first process of a pod is in the namespace that the node gave to the pod.
		if first, double := byUID[pod.UID]; double {
			result.Other++
			if !pod.Started.Before(first.Started) {
				continue
			}
		}
		byUID[pod.UID] = pod
	}
	if node != nil {
		for uid, started := range n.podsOf(node, boot, maxNodeProcesses) {
			delete(shared, uid)
			if pod, elsewhere := byUID[uid]; elsewhere && pod.Started.Before(started) {
				continue
			} else if elsewhere {
				result.Other++
				delete(byUID, uid)
			}
			result.HostNetwork++
		}
	}
	for uid, pod := range byUID {
		var known bool
		if pod.Pod, known = names[uid]; !known {
			result.Unnamed++
		}
		result.Namespaces = append(result.Namespaces, pod)
	}
	if outside == nil { // else one of the namespaces may be that of the node
		for uid, pod := range shared {
			if _, ok := byUID[uid]; !ok {
				pod.Pod = names[uid]
				result.Shared = append(result.Shared, pod)
			}
		}
	}
	slices.SortFunc(result.Namespaces, func(a, b PodNamespace) int { return cmp.Compare(a.PID(), b.PID()) })
	return result, nil
}

// podOf returns the pod of a namespace. It reports false if the processes with the lowest ids
// are of no pod or of several pods.
func (n *Node) podOf(ns *Namespace, boot time.Time) (PodNamespace, bool) {
	pod := PodNamespace{Namespace: *ns}
	lowest := n.podsOf(ns, boot, maxOrigins)
	if len(lowest) != 1 {
		return pod, false
	}
	all := lowest
	if len(ns.members) > maxOrigins { // the first process may have a higher id
		all = n.podsOf(ns, boot, maxNodeProcesses)
	}
	for uid := range lowest {
		pod.UID, pod.Started = uid, all[uid]
	}
	return pod, true
}

// podsOf returns the pods of the processes with the lowest ids in a namespace, with the start of
// the first one of each pod.
func (n *Node) podsOf(ns *Namespace, boot time.Time, limit int) map[string]time.Time {
	pods := make(map[string]time.Time)
	for _, m := range ns.members[:min(len(ns.members), limit)] {
		p, err := n.processes.of(m, ns.ID)
		if err != nil || p.uid == "" {
			continue
		}
		started := boot.Add(p.started)
		if first, ok := pods[p.uid]; !ok || started.Before(first) {
			pods[p.uid] = started
		}
	}
	return pods
}
