package server

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"tcphup/collector"
	"tcphup/hangup"
	"tcphup/namespaces"
)

// DefaultPodLogs is the default of NodeOptions.PodLogs.
const DefaultPodLogs = namespaces.PodLogs

// NodeOptions configure node mode: Run reads and acts in the network namespaces of the pods of
// this node, instead of the own one.
type NodeOptions struct {
	// Enabled enables node mode. It needs the pid namespace of the node.
	Enabled bool
	// PodLogs is the directory with the names of the pods.
	PodLogs string
	// CPUBudget is the processor time that a scrape may take for reading namespaces; 0 means no
	// limit.
	CPUBudget time.Duration
	// MaxDestinationsPerPod is collector.NodeConfig.MaxDestinationsPerPod.
	MaxDestinationsPerPod int
}

// checkNode checks that the pods of the node can be found, and logs their number. It runs with
// the capabilities that are left for serving.
func (x *server) checkNode() error {
	if !x.options.Node.Enabled {
		return nil
	}
	found, err := x.node.Discover()
	if err != nil {
		return fmt.Errorf("--node: %w", err)
	}
	x.logger.Info("reading the pods of this node", "pods", len(found.Namespaces), "unnamed", found.Unnamed,
		"host_network", found.HostNetwork, "other_namespaces", found.Other, "unreadable_processes", found.Unreadable)
	if _, err := os.Stat(x.node.PodLogs); errors.Is(err, os.ErrNotExist) {
		x.logger.Warn("names of pods are unknown", "err", err, "fix", "mount the directory of pod logs and set --node.pod-logs")
	}
	return nil
}

// findPods is collector.NodeConfig.Find. It logs processes whose namespace is unreadable: pods
// of such processes alone are not found.
func (x *server) findPods() (collector.Found, error) {
	found, err := x.node.Discover()
	if err != nil {
		return collector.Found{}, err
	}
	if found.Unreadable > 0 {
		x.unreadable.Do(func() {
			x.logger.Warn("cannot read network namespaces of processes", "processes", found.Unreadable,
				"fix", "grant CAP_SYS_PTRACE, and allow ptrace (read) of all processes in an AppArmor profile")
		})
	}
	pods := podNamespaces(found.Namespaces)
	for i := range pods {
		pods[i].Do = found.Namespaces[i].DoHere
	}
	return collector.Found{
		Pods: pods, Node: found.Node, Other: found.Other,
		HostNetwork: found.HostNetwork, Unnamed: found.Unnamed,
	}, nil
}

// pods is alerts.Config.Pods. It includes pods that cannot be read, and that of tcphup itself:
// their alerts must not be done.
func (x *server) pods() ([]hangup.Namespace, error) {
	found, err := x.node.Discover()
	if err != nil {
		return nil, err
	}
	all := podNamespaces(found.Namespaces)
	for _, n := range podNamespaces(found.Shared) {
		n.Do = func(func() error) error { return errShared }
		all = append(all, n)
	}
	return all, nil
}

// errShared means that the pod of a network namespace is ambiguous.
var errShared = fmt.Errorf("network namespace has processes of several pods: %w", errors.ErrUnsupported)

// podNamespaces converts the namespaces of pods.
func podNamespaces(pods []namespaces.PodNamespace) []hangup.Namespace {
	all := make([]hangup.Namespace, len(pods))
	for i := range pods {
		all[i] = podNamespace(&pods[i])
	}
	return all
}

func podNamespace(n *namespaces.PodNamespace) hangup.Namespace {
	uid := n.UID
	pod := &hangup.Pod{
		Namespace: n.Pod.Namespace, Name: n.Pod.Name, UID: uid, Started: n.Started, Own: n.Own,
		Owns: func(cgroup string) bool { return namespaces.ParseOrigin(cgroup).PodUID == uid },
	}
	return hangup.Namespace{Name: pod.Labels().String(), Inode: n.ID.Inode, Do: n.Do, Pod: pod}
}

// errNoPod means that there is no pod for the self-test.
var errNoPod = errors.New("no pod with a network namespace of its own is on this node")

// podToTest returns the namespace of the pod with the most processes, which has more than the
// process that holds the namespace. The pod of tcphup itself is left out.
func (x *server) podToTest() (hangup.Namespace, error) {
	found, err := x.node.Discover()
	if err != nil {
		return hangup.Namespace{}, err
	}
	pods := slices.DeleteFunc(found.Namespaces, func(n namespaces.PodNamespace) bool { return n.Own })
	slices.SortStableFunc(pods, func(a, b namespaces.PodNamespace) int { return b.Processes() - a.Processes() })
	for i := range pods {
		n := podNamespace(&pods[i])
		if err := n.Enter(func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
			return n, err
		}
	}
	return hangup.Namespace{}, errNoPod
}
