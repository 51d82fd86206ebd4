package command

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

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
	ephemeral, err := sockdiag.EphemeralPorts()
	if err != nil {
		return 0, err
	}
	listeners, err := conn.Listeners(ctx)
	if err != nil {
		return 0, err
	}
	listeners.SetEphemeral(ephemeral)
	hand := func(s *seen) {
		switch {
		case selector.LeftAlone(&s.Flow, s.direction):
			leftAlone++
		case selector.Match(&s.Flow, s.direction):
			add(s)
		}
	}

	// Connections first: what ends between the two dumps then looks like one that
	// has lost its paths, and its own count of them says otherwise.
	connections, err := readConnections(ctx, conn, listeners)
	if err != nil {
		return 0, err
	}
	query := sockdiag.Query{States: selector.StateSet(), Info: true, Ahead: true}
	if len(connections) == 0 {
		query.Selector = selector // else every path has to be seen
	}
	for f, err := range conn.Flows(ctx, query) {
		if err != nil {
			return 0, fmt.Errorf("read flows: %w", err)
		}
		s := seen{Flow: f}
		if c := connections[f.Inode]; c != nil && f.Inode != 0 {
			s.direction, s.path = c.direction, true
			c.path = true
		} else {
			s.direction, s.path = listeners.Direction(&f), f.IsSubflow
		}
		hand(&s)
	}
	for _, c := range connections {
		if !c.path && c.MPTCPInfo.SubflowsTotal == 0 {
			hand(c)
		}
	}
	return leftAlone, nil
}

// readConnections returns the MPTCP connections that applications hold, by inode.
func readConnections(ctx context.Context, conn *sockdiag.Conn, listeners *sockdiag.Listeners) (map[uint32]*seen, error) {
	connections := make(map[uint32]*seen)
	query := sockdiag.Query{Protocol: sockdiag.MPTCP, States: sockdiag.Open, Info: true}
	for f, err := range conn.Flows(ctx, query) {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return connections, nil // a kernel without MPTCP
		case err != nil:
			return nil, fmt.Errorf("read MPTCP connections: %w", err)
		case f.Inode != 0:
			connections[f.Inode] = &seen{Flow: f, direction: listeners.Direction(&f)}
		}
	}
	return connections, nil
}
