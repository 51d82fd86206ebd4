package hangup

import (
	"cmp"
	"time"
)

// Namespace is a network namespace. The zero value is the namespace of this process.
type Namespace struct {
	// Name is the value of Result.Namespace for its flows.
	Name string
	// Inode is the inode of /proc/PID/ns/net; 0 is that of this process.
	Inode uint64
	// Do calls open on a thread in the namespace and returns its error. Sockets that open
	// creates belong to the namespace. An error that matches os.ErrNotExist means that the
	// namespace has ended, or is not that of Pod any more. nil calls open directly.
	Do func(open func() error) error
	// Pod is the pod whose namespace it is. Then a flow is hung up only if every process that
	// holds its socket is of the pod. nil allows every process.
	Pod *Pod
}

// Pod is a Kubernetes pod with a network namespace of its own.
type Pod struct {
	// Namespace and Name are those of Kubernetes. Both are empty if they are unknown.
	Namespace, Name string
	// UID is the uid, or the hash of a static pod.
	UID string
	// Started is when the first process of the network namespace started: the pod is at least
	// that old.
	Started time.Time
	// Own is set for the pod of tcphup itself. Alerts that select it are refused.
	Own bool
	// Owns reports whether a process is of the pod, by the content of its /proc/PID/cgroup.
	Owns func(cgroup string) bool
}

// UnknownNamespace is the label namespace of a pod whose name is unknown. No namespace of
// Kubernetes can have this name.
const UnknownNamespace = "_unknown"

// Labels returns the values of the labels namespace and pod: UnknownNamespace and the uid if
// the name is unknown.
func (p *Pod) Labels() PodName {
	if p.Namespace == "" || p.Name == "" {
		return PodName{UnknownNamespace, p.UID}
	}
	return PodName{p.Namespace, p.Name}
}

// PodName has the values of the labels namespace and pod. It is the zero value without node mode.
type PodName struct{ Namespace, Pod string }

// String returns NAMESPACE/POD.
func (p PodName) String() string { return p.Namespace + "/" + p.Pod }

// Compare orders pods by namespace and name.
func (p PodName) Compare(q PodName) int {
	return cmp.Or(cmp.Compare(p.Namespace, q.Namespace), cmp.Compare(p.Pod, q.Pod))
}

// Enter calls open in the namespace; see Do.
func (n Namespace) Enter(open func() error) error {
	if n.Do == nil {
		return open()
	}
	return n.Do(open)
}

// NamespaceError is the cause for which no flow of a namespace was selected.
type NamespaceError struct {
	Name string
	Err  error
}
