package command

import (
	"context"
	"fmt"
	"net/netip"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// listedFlow is a flow of a scan. A flow with the protocol MPTCP is a connection
// without subflows.
type listedFlow struct {
	sockdiag.Flow
	direction sockdiag.Direction
	subflow   bool // of an MPTCP connection
	hidden    bool // of an MPTCP connection that the kernel does not list
	netns     string
}

// service returns the remote address of an outbound flow and the local address of an
// inbound flow.
func (f *listedFlow) service() netip.AddrPort {
	if f.direction == sockdiag.Inbound {
		return f.Local
	}
	return f.Remote
}

// scan calls add for each flow that the selector matches, in each namespace of the scope. Of
// a namespace with an error it adds none. It returns the number of flows excluded only by
// their direction.
func (s *scope) scan(ctx context.Context, selector *sockdiag.Selector, add func(*listedFlow)) (leftAlone int, err error) {
	err = s.each(ctx, func(in hangup.Namespace) error {
		if in.Do == nil && in.Name == "" {
			leftAlone, err = scan(ctx, in, selector, add)
			return err
		}
		var flows []*listedFlow
		n, err := scan(ctx, in, selector, func(f *listedFlow) {
			f.netns = in.Name
			flows = append(flows, f)
		})
		if err != nil {
			return err
		}
		leftAlone += n
		for _, f := range flows {
			add(f)
		}
		return nil
	})
	return leftAlone, err
}

// scan calls add for each flow of a namespace that the selector matches. It returns the
// number of flows excluded only by their direction. A subflow has the direction of its
// connection.
func scan(ctx context.Context, in hangup.Namespace, selector *sockdiag.Selector, add func(*listedFlow)) (leftAlone int, err error) {
	conn, err := sockdiag.DialIn(in.Inode, in.Enter)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return scanFrom(ctx, conn, selector, add)
}

func scanFrom(ctx context.Context, from sockdiag.NamespaceReader, selector *sockdiag.Selector, add func(*listedFlow)) (leftAlone int, err error) {
	// MPTCP connections are dumped before their subflows. A connection that ends between
	// the dumps then has no subflows in the second; its own SubflowsTotal separates it
	// from a connection without subflows.
	table, err := sockdiag.ReadTable(ctx, from)
	if err != nil {
		return 0, err
	}
	match := func(f *listedFlow) {
		switch {
		case !selector.MatchEndpoint(&f.Flow, f.direction):
		case !selector.Direction.Includes(f.direction):
			leftAlone++
		case selector.Match(&f.Flow, f.direction):
			add(f)
		}
	}

	connections := table.Connections()
	hasSubflow := make([]bool, len(connections))
	query := sockdiag.Query{States: selector.StateSet(), Info: true, Ahead: true}
	if len(connections) == 0 {
		query.Selector = selector // otherwise hasSubflow needs the subflows of every destination
	}
	for f, err := range from.Flows(ctx, query) {
		if err != nil {
			return 0, fmt.Errorf("read flows: %w", err)
		}
		i, isSubflow := table.Connection(&f)
		if isSubflow {
			hasSubflow[i] = true
		}
		match(&listedFlow{
			Flow: f, direction: table.Direction(&f), subflow: isSubflow || f.IsSubflow, hidden: table.LacksMPTCPDiag(&f),
		})
	}
	for i, c := range connections {
		if c.Inode != 0 && !hasSubflow[i] && c.MPTCPInfo.SubflowsTotal == 0 {
			match(&listedFlow{Flow: c, direction: table.Direction(&c)})
		}
	}
	return leftAlone, nil
}
