package command

import (
	"context"
	"fmt"
	"net/netip"

	"tcphup/sockdiag"
)

// seen is one flow of a survey.
type seen struct {
	sockdiag.Flow
	direction sockdiag.Direction
	// path says that it is a path of an MPTCP connection. A Flow of the protocol
	// MPTCP is a connection that has no path left.
	path bool
}

// service is where the flow leads: the remote end of an outbound flow, the local
// one of an inbound flow.
func (s *seen) service() netip.AddrPort {
	if s.direction == sockdiag.Inbound {
		return s.Local
	}
	return s.Remote
}

// survey reads the flows that the selector matches, hands each of them to add and
// returns how many more only their direction keeps out. TCP flows come as they
// are, paths of MPTCP connections with the direction of their connection.
func survey(ctx context.Context, selector *sockdiag.Selector, add func(*seen)) (leftAlone int, err error) {
	conn, err := sockdiag.Dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	// Connections first: what ends between the two dumps then looks like one that
	// has lost its paths, and its own count of them says otherwise.
	table, err := conn.Table(ctx)
	if err != nil {
		return 0, err
	}
	hand := func(s *seen) {
		switch {
		case !selector.MatchEndpoint(&s.Flow, s.direction):
		case !selector.Direction.Includes(s.direction):
			leftAlone++
		case selector.Match(&s.Flow, s.direction):
			add(s)
		}
	}

	connections := table.Connections()
	hasPath := make([]bool, len(connections))
	query := sockdiag.Query{States: selector.StateSet(), Info: true, Ahead: true}
	if len(connections) == 0 {
		query.Selector = selector // else every path has to be seen
	}
	for f, err := range conn.Flows(ctx, query) {
		if err != nil {
			return 0, fmt.Errorf("read flows: %w", err)
		}
		i, isPath := table.Connection(&f)
		if isPath {
			hasPath[i] = true
		}
		hand(&seen{Flow: f, direction: table.Direction(&f), path: isPath || f.IsSubflow})
	}
	for i, c := range connections {
		if c.Inode != 0 && !hasPath[i] && c.MPTCPInfo.SubflowsTotal == 0 {
			hand(&seen{Flow: c, direction: table.Direction(&c)})
		}
	}
	return leftAlone, nil
}
