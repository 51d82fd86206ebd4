package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
)

// Table holds the small part of a network namespace's socket table that decides the
// direction of every flow and joins subflows to their MPTCP connections: listeners,
// ephemeral ports and MPTCP connections. TCP flows are not kept. The zero Table is
// empty and ready to use. It may be read concurrently once it is filled.
type Table struct {
	// Ephemeral is the port range of EphemeralPorts. The zero PortRange decides no
	// direction.
	Ephemeral PortRange

	listeners   listeners
	connections []Flow
	byToken     map[uint32]int // index in connections
	byInode     map[uint32]int // of the connections with an inode

	// openers has those that took a dump to find, earlier those before the last Reset.
	openers, earlier map[openerKey]Opener
}

// Reader is the part of a Conn that a Table is read from.
type Reader interface {
	Flows(ctx context.Context, q Query) iter.Seq2[Flow, error]
}

// ReadListeners adds the listeners of the namespace. The dump visits listening sockets
// only.
func (t *Table) ReadListeners(ctx context.Context, from Reader) error {
	for f, err := range from.Flows(ctx, Query{States: States(Listen)}) {
		if err != nil {
			return fmt.Errorf("find listeners: %w", err)
		}
		t.listeners.add(&f)
	}
	return nil
}

// ReadConnections adds the MPTCP connections in the given states. A kernel that has no
// MPTCP, or no mptcp_diag, adds none. After an error the connections read so far stay
// in the Table. ReadListeners and Ephemeral come first.
func (t *Table) ReadConnections(ctx context.Context, from Reader, states StateSet) error {
	for f, err := range from.Flows(ctx, Query{Protocol: MPTCP, States: states, Info: true}) {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("read MPTCP connections: %w", err)
		}
		t.addConnection(&f)
	}
	return t.readOpeners(ctx, from)
}

func (t *Table) addConnection(f *Flow) {
	if t.byToken == nil {
		t.byToken, t.byInode = make(map[uint32]int), make(map[uint32]int)
	}
	i := len(t.connections)
	t.connections = append(t.connections, *f)
	t.byToken[f.MPTCPInfo.Token] = i
	if f.Inode != 0 {
		t.byInode[f.Inode] = i
	}
}

// maxOpenerPorts bounds the port filter of readOpeners: each port costs a comparison for
// each socket of the namespace.
const maxOpenerPorts = 16

// openerKey names an MPTCP connection: a socket that connects anew has another token.
type openerKey struct {
	cookie uint64
	token  uint32
}

// readOpeners sets Opener of the connections whose direction is not clear from
// listeners and ports. mptcp_info has no byte counters; the initial subflow has, and it
// has its connection's addresses. One filtered dump serves all of these connections;
// there is none when the reading before the last Reset has their openers.
func (t *Table) readOpeners(ctx context.Context, from Reader) error {
	unclear, query := t.unclear()
	if len(unclear) == 0 {
		return nil
	}
	for f, err := range from.Flows(ctx, query) {
		if err != nil {
			return fmt.Errorf("read initial subflows: %w", err)
		}
		i, ok := t.Connection(&f)
		if !ok || !unclear[i] {
			continue
		}
		if c := &t.connections[i]; f.Local == c.Local && f.Remote == c.Remote {
			delete(unclear, i)
			if f.Opener != OpenerUnknown { // else the next reading may find it
				t.setOpener(i, f.Opener)
			}
		}
	}
	for i := range unclear {
		t.setOpener(i, OpenerUnknown) // without its initial subflow it never becomes known
	}
	return nil
}

// unclear returns the indexes of the connections whose opener takes a dump to find, and
// the query for their initial subflows.
func (t *Table) unclear() (map[int]bool, Query) {
	indexes, initial := make(map[int]bool), Selector{Destinations: Everywhere()}
	query := Query{States: States(Established, CloseWait), Selector: &initial, Info: true}
	for i := range t.connections {
		c := &t.connections[i]
		local, remote := t.Ephemeral.Contains(c.Local.Port()), t.Ephemeral.Contains(c.Remote.Port())
		if Handshake.Has(c.State) || t.listeners.has(c.Local) || local && !remote {
			continue
		}
		if opener, ok := t.earlier[openerKey{c.Cookie, c.MPTCPInfo.Token}]; ok {
			t.setOpener(i, opener)
			continue
		}
		indexes[i] = true
		if !slices.Contains(query.Families, c.Family) {
			query.Families = append(query.Families, c.Family)
		}
		if len(initial.Ports) <= maxOpenerPorts && !slices.Contains(initial.Ports, c.Remote.Port()) {
			initial.Ports = append(initial.Ports, c.Remote.Port())
		}
	}
	if len(initial.Ports) > maxOpenerPorts {
		initial.Ports = nil
	}
	return indexes, query
}

// setOpener sets and remembers the opener of a connection.
func (t *Table) setOpener(i int, opener Opener) {
	c := &t.connections[i]
	c.Opener = opener
	if t.openers == nil {
		t.openers = make(map[openerKey]Opener)
	}
	t.openers[openerKey{c.Cookie, c.MPTCPInfo.Token}] = opener
}

// Reset empties the Table for another reading of the same namespace. It keeps the memory
// and, for connections that are still there then, the openers.
func (t *Table) Reset() {
	t.Ephemeral, t.listeners = PortRange{}, listeners{}
	t.connections = t.connections[:0]
	clear(t.byToken)
	clear(t.byInode)
	t.earlier, t.openers = t.openers, nil
}

// Connections returns the MPTCP connections in the order of their dump. Opener is that
// of the initial subflow, where it was needed and known. The slice belongs to the Table.
func (t *Table) Connections() []Flow { return t.connections }

// Connection returns the index in Connections of the MPTCP connection that a TCP flow is
// a subflow of, by the rule of Flow.IsSubflowOf, or that a flow of protocol MPTCP is. It
// reports false where there is none.
func (t *Table) Connection(f *Flow) (i int, ok bool) {
	switch {
	case len(t.connections) == 0:
	case f.Protocol == MPTCP:
		i, ok = t.byToken[f.MPTCPInfo.Token]
	case f.IsSubflow:
		i, ok = t.byToken[f.Subflow.Token]
	case f.Inode != 0:
		i, ok = t.byInode[f.Inode]
	}
	return i, ok
}

// IsSubflowOf reports whether a TCP flow is a subflow of an MPTCP connection. A subflow
// that shows its token belongs to the connection with that token and to no other: after
// close(2) the connection has inode 0 while its subflows keep the old one. The inode
// decides only where the kernel hides the token.
func (f *Flow) IsSubflowOf(connection *Flow) bool {
	if f.IsSubflow {
		return f.Subflow.Token == connection.MPTCPInfo.Token
	}
	return f.Inode != 0 && f.Inode == connection.Inode
}

// Direction returns the direction of a flow. A subflow has the direction of its MPTCP
// connection. Any other flow is decided by the first evidence that applies:
//
//  1. the handshake: SYN_SENT is outbound; a handshake state without an inode is inbound
//  2. a listener on the flow's local endpoint: inbound, even if this side sent the SYN,
//     because sparing an outbound flow is less harmful than closing an inbound one
//  3. Opener, for an MPTCP connection that of its initial subflow
//  4. Ephemeral: from an ephemeral remote port to another local port is inbound
//  5. otherwise outbound
func (t *Table) Direction(f *Flow) Direction {
	if i, ok := t.Connection(f); ok {
		f = &t.connections[i]
	}
	return t.OwnDirection(f)
}

// OwnDirection is Direction without the join: for a subflow it returns which side
// opened that subflow, which may be the peer of an outbound MPTCP connection.
func (t *Table) OwnDirection(f *Flow) Direction {
	switch {
	case f.State == SynSent:
		return Outbound
	case Handshake.Has(f.State) && f.Inode == 0:
		return Inbound
	case t.listeners.has(f.Local):
		return Inbound
	case f.Opener == OpenedHere:
		return Outbound
	case f.Opener == OpenedByPeer, t.Ephemeral.Contains(f.Remote.Port()) && !t.Ephemeral.Contains(f.Local.Port()):
		return Inbound
	default:
		return Outbound
	}
}
