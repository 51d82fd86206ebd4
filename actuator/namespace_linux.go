package actuator

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// namespace is a network namespace of an action, and the connection to it.
type namespace struct {
	hangup.Namespace
	conn     *sockdiag.Conn
	subflows subflowDump
	// destroyUsable caches the result of probeDestroy.
	destroyUsable *error
	// mptcpUsable caches the result of probeMPTCP.
	mptcpUsable *error
}

// errNotOfPod means that a namespace is not one of a pod alone, but that of tcphup.
var errNotOfPod = fmt.Errorf("pod has no network namespace of its own: it is that of tcphup: %w", errors.ErrUnsupported)

// openNamespace opens a connection. The namespace of a pod must not be that of tcphup, which
// may be that of the node.
func (x *action) openNamespace(in hangup.Namespace) (*namespace, error) {
	if in.Pod != nil {
		own, err := ownNamespace()
		if err != nil {
			return nil, err
		}
		if in.Do == nil || in.Inode == 0 || in.Inode == own {
			return nil, errNotOfPod
		}
	}
	conn, err := dial(in, x.blocked)
	if err != nil {
		return nil, err
	}
	return &namespace{Namespace: in, conn: conn}, nil
}

// targetSelection has the targets of all namespaces. The other flows are as in planner.
type targetSelection struct {
	targets                     []*target
	leftAlone, lacking, closing []uint32
	// unread are the namespaces without a plan.
	unread []hangup.NamespaceError
}

// selectTargets plans each namespace. Connections to namespaces with targets stay open until
// close. Without Request.Namespaces an error of the only plan is returned.
func (x *action) selectTargets(ctx context.Context) (*targetSelection, error) {
	all := new(targetSelection)
	if len(x.Namespaces) == 0 {
		return all, x.selectIn(ctx, hangup.Namespace{}, all)
	}
	for _, in := range x.Namespaces {
		err := x.selectIn(ctx, in, all)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			all.unread = append(all.unread, hangup.NamespaceError{Name: in.Name, Err: err})
		}
	}
	return all, nil
}

// selectIn adds the plan of one namespace.
func (x *action) selectIn(ctx context.Context, in hangup.Namespace, all *targetSelection) error {
	ns, err := x.openNamespace(in)
	if err != nil {
		return err
	}
	p := &planner{conn: ns.conn, readTable: x.readTable, selector: &x.Selector, subflowsOnly: x.MPTCP == hangup.Path}
	err = p.plan(ctx)
	if err != nil || len(p.targets) == 0 {
		_ = ns.conn.Close()
	} else {
		x.open = append(x.open, ns)
	}
	if err != nil {
		return err
	}
	ns.subflows = subflowDump{from: ns.conn, table: p.table}
	for _, t := range p.targets {
		t.in, t.Namespace = ns, in.Name
	}
	all.targets = append(all.targets, p.targets...)
	all.leftAlone = append(all.leftAlone, p.leftAlone...)
	all.lacking = append(all.lacking, p.lacking...)
	all.closing = append(all.closing, p.closing...)
	return nil
}

// ownNamespace returns the inode of the network namespace of this process.
func ownNamespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("read own network namespace: %w", err)
	}
	return st.Ino, nil
}

// closeNamespaces closes the connections of selectTargets.
func (x *action) closeNamespaces() {
	for _, ns := range x.open {
		_ = ns.conn.Close()
	}
}

// inodesOfNamespaces returns the inodes of the targets' network namespaces.
func inodesOfNamespaces(targets []*target) []uint64 {
	var inodes []uint64
	for _, t := range targets {
		if t.in != nil {
			inodes = append(inodes, t.in.Inode)
		}
	}
	return sortCompact(inodes)
}

// currentFlow looks up a flow; a missing flow has state Close.
func (ns *namespace) currentFlow(ctx context.Context, f *sockdiag.Flow) (sockdiag.Flow, error) {
	now, err := ns.conn.Lookup(ctx, f)
	if errors.Is(err, os.ErrNotExist) {
		return sockdiag.Flow{State: sockdiag.Close}, nil
	}
	return now, err
}

// stateOf returns the state of currentFlow.
func (ns *namespace) stateOf(ctx context.Context, f *sockdiag.Flow) (sockdiag.State, error) {
	now, err := ns.currentFlow(ctx, f)
	return now.State, err
}
