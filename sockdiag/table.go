package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// Table determines the direction of flows and relates subflows to their MPTCP connections.
// It has the listeners, the ephemeral ports and the MPTCP connections of one network
// namespace, but no TCP flows. The zero Table is empty and ready to use. A filled Table may
// be read concurrently.
type Table struct {
	// Ephemeral is the result of EphemeralPorts. With the zero PortRange, ports do not
	// determine a direction.
	Ephemeral PortRange

	listeners   listeners
	connections []Flow
	byToken     map[uint32]int // index in connections
	byInode     map[uint32]int // the same, without connections of inode 0

	noConnections bool // the kernel has no MPTCP dump

	// openers caches the results of dumps for initial subflows; earlier is the cache from
	// before the last Reset.
	openers, earlier map[openerKey]Opener
}

// Reader is the source of a Table, usually a Conn.
type Reader interface {
	Flows(ctx context.Context, q Query) iter.Seq2[Flow, error]
}

// AddListener adds a flow in state Listen and ignores any other flow.
func (t *Table) AddListener(f *Flow) { t.listeners.add(f) }

// ReadListeners adds the listeners of the namespace. The kernel visits only listening
// sockets for it.
func (t *Table) ReadListeners(ctx context.Context, from Reader) error {
	for f, err := range from.Flows(ctx, Query{States: States(Listen)}) {
		if err != nil {
			return fmt.Errorf("read listeners: %w", err)
		}
		t.AddListener(&f)
	}
	return nil
}

// ReadConnections adds the MPTCP connections in the given states. It adds none if the
// kernel lacks MPTCP or mptcp_diag; LacksMPTCPDiag then distinguishes the two. After an
// error the connections read so far stay in the Table. Call ReadListeners and set Ephemeral
// first.
func (t *Table) ReadConnections(ctx context.Context, from Reader, states StateSet) error {
	for f, err := range from.Flows(ctx, Query{Protocol: MPTCP, States: states, Info: true}) {
		switch {
		case errors.Is(err, ErrNoMPTCPDiag):
			t.noConnections = true
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

// maxOpenerPorts bounds the port filter of readOpeners. Each port costs one comparison for
// each socket of the namespace.
const maxOpenerPorts = 16

// openerKey identifies an MPTCP connection. A socket that reconnects has another token.
type openerKey struct {
	cookie uint64
	token  uint32
}

// readOpeners sets Opener of the connections whose direction does not follow from
// listeners and ports. mptcp_info has no byte counters, so it reads the initial subflow,
// which has the addresses of its connection. One filtered dump covers all connections. It
// is skipped if all openers are cached.
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
			if f.Opener != OpenerUnknown { // else try again after the next Reset
				t.setOpener(i, f.Opener)
			}
		}
	}
	for i := range unclear {
		t.setOpener(i, OpenerUnknown) // permanent, because the initial subflow is gone
	}
	return nil
}

// unclear returns the indexes of the connections that need a dump for their opener, and
// the query for their initial subflows. It sets cached openers.
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
		port := PortRange{c.Remote.Port(), c.Remote.Port()}
		if len(initial.Ports) <= maxOpenerPorts && !slices.Contains(initial.Ports, port) {
			initial.Ports = append(initial.Ports, port)
		}
	}
	if len(initial.Ports) > maxOpenerPorts {
		initial.Ports = nil
	}
	return indexes, query
}

// setOpener sets and caches the opener of a connection.
func (t *Table) setOpener(i int, opener Opener) {
	c := &t.connections[i]
	c.Opener = opener
	if t.openers == nil {
		t.openers = make(map[openerKey]Opener)
	}
	t.openers[openerKey{c.Cookie, c.MPTCPInfo.Token}] = opener
}

// Reset empties the Table before another read of the same namespace. It keeps allocated
// memory and the cached openers.
func (t *Table) Reset() {
	t.Ephemeral = PortRange{}
	t.listeners.reset()
	t.connections, t.noConnections = t.connections[:0], false
	clear(t.byToken)
	clear(t.byInode)
	t.earlier, t.openers = t.openers, nil
}

// Connections returns the MPTCP connections in the order of the dump. The Table owns the
// slice. Opener is set from the initial subflow where Direction needs it.
func (t *Table) Connections() []Flow { return t.connections }

// Connection returns the index in Connections of the MPTCP connection of a flow. It compares
// tokens, because after close(2) a connection has inode 0 while its subflows keep the old
// inode, and inodes only if the kernel hides the token. It reports false if no connection
// matches.
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

// LacksMPTCPDiag reports whether the kernel module mptcp_diag is missing: the kernel has no
// MPTCP dump, but f is a subflow of an MPTCP connection. That connection, its other
// subflows and their states are then unknown.
func (t *Table) LacksMPTCPDiag(f *Flow) bool { return t.noConnections && f.IsSubflow }

// Direction returns the direction of a flow. A subflow has the direction of its MPTCP
// connection. For any other flow the first rule that applies decides:
//
//  1. SYN_SENT is outbound. Any other handshake state without an inode is inbound.
//  2. A listener on the local endpoint means inbound, even if this side sent the SYN.
//     Keeping an outbound flow open is less harmful than closing an inbound flow.
//  3. Opener, for an MPTCP connection the opener of its initial subflow.
//  4. An ephemeral remote port and a non-ephemeral local port mean inbound.
//  5. Otherwise outbound.
//
// Rules 4 and 5 are guesses; see KnownDirection.
func (t *Table) Direction(f *Flow) Direction {
	d, _ := t.KnownDirection(f)
	return d
}

// KnownDirection returns Direction, and false if it is a guess.
func (t *Table) KnownDirection(f *Flow) (d Direction, known bool) {
	if i, ok := t.Connection(f); ok {
		f = &t.connections[i]
	}
	return t.ownDirection(f)
}

// OwnDirection returns the direction of a flow without regard to its MPTCP connection. The
// peer may open a subflow of an outbound connection.
func (t *Table) OwnDirection(f *Flow) Direction {
	d, _ := t.ownDirection(f)
	return d
}

func (t *Table) ownDirection(f *Flow) (d Direction, known bool) {
	switch d, known, byPort := t.directionWithoutPorts(f); {
	case !byPort:
		return d, known
	case t.Ephemeral.Contains(f.Remote.Port()) && !t.Ephemeral.Contains(f.Local.Port()):
		return Inbound, false
	default:
		return Outbound, false
	}
}

// NeedsEphemeral reports whether OwnDirection of a flow depends on Ephemeral.
func (t *Table) NeedsEphemeral(f *Flow) bool {
	_, _, byPort := t.directionWithoutPorts(f)
	return byPort
}

// directionWithoutPorts applies the rules that precede the ephemeral ports. It reports byPort
// if no such rule applies.
func (t *Table) directionWithoutPorts(f *Flow) (d Direction, known, byPort bool) {
	switch {
	case f.State == SynSent:
		return Outbound, true, false
	case Handshake.Has(f.State) && f.Inode == 0, t.listeners.has(f.Local):
		return Inbound, true, false
	case f.Opener != OpenerUnknown:
		return f.Opener.Direction(), f.Opener == OpenedHere || f.inFlight() != 1, false
	default:
		return Outbound, false, true
	}
}
