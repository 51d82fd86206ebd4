// Package namespaces finds the network namespaces of this host, names them, and runs
// functions in them. It keeps no namespace and no descriptor open.
//
// Capabilities: Discover needs CAP_SYS_PTRACE for processes of other users, and Namespace.Do
// CAP_SYS_ADMIN, both in the user namespace that owns the network namespace.
package namespaces

import (
	"cmp"
	"fmt"
	"slices"
)

// ID identifies a network namespace among those that exist.
type ID struct{ Device, Inode uint64 }

// Namespace is a network namespace at the time of Discover.
type Namespace struct {
	ID ID
	// Own is set for the namespace of this process.
	Own bool
	// Name is the name of ip-netns(8), "" without one. Of several names it is the first.
	Name string

	members []member // the processes in it, by id
	file    string   // of Name
}

// member is a process of a namespace. After the end of its first thread, tid is another
// thread; otherwise it is pid.
type member struct{ pid, tid int }

// PID returns the lowest process id in the namespace, 0 without a process.
func (n *Namespace) PID() int {
	if len(n.members) == 0 {
		return 0
	}
	return n.members[0].pid
}

// Processes counts the processes in the namespace. A named namespace may have none.
func (n *Namespace) Processes() int { return len(n.members) }

// String identifies the namespace by its inode, as ip-netns(8) and lsns(8) do.
func (n *Namespace) String() string { return fmt.Sprintf("net:[%d]", n.ID.Inode) }

// Found is the result of Discover.
type Found struct {
	// Namespaces has the namespace of this process first, then those with processes by
	// Namespace.PID, and those without by Name.
	Namespaces []Namespace
	// Unreadable counts the processes whose namespace could not be read: permission denied.
	Unreadable int
	// Hidden is set if /proc omits processes of other users (mount option hidepid).
	Hidden bool

	unreadable []int // ids of the processes that Unreadable counts
}

// Others counts the namespaces with processes, without the namespace of this process.
func (f *Found) Others() int {
	n := 0
	for i := range f.Namespaces {
		if !f.Namespaces[i].Own && f.Namespaces[i].Processes() > 0 {
			n++
		}
	}
	return n
}

func (f *Found) sort() {
	slices.SortFunc(f.Namespaces, func(a, b Namespace) int {
		return cmp.Or(rank(&a)-rank(&b), cmp.Compare(a.PID(), b.PID()), cmp.Compare(a.Name, b.Name))
	})
}

func rank(n *Namespace) int {
	switch {
	case n.Own:
		return 0
	case n.Processes() > 0:
		return 1
	default:
		return 2
	}
}
