package actuator

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// planner selects the targets of an action from dumps of the socket table.
type planner struct {
	conn         *sockdiag.Conn
	readTable    func(context.Context, *sockdiag.Conn) (*sockdiag.Table, error)
	selector     *sockdiag.Selector
	subflowsOnly bool // Path mode

	table       *sockdiag.Table
	connections []*connection // parallel to table.Connections
	undecided   []sockdiag.Flow

	targets []*target
	// Inodes of flows that are only counted: leftAlone match except for their direction,
	// lacking except for the evidence; closing match in address, port and direction, and are
	// over.
	leftAlone, lacking, closing []uint32
}

// plan dumps listeners, MPTCP connections and TCP flows, in this order: a subflow whose
// connection is missing is then younger than the dump of connections.
func (p *planner) plan(ctx context.Context) error {
	var err error
	if p.table, err = p.readTable(ctx, p.conn); err != nil {
		return err
	}
	for _, f := range p.table.Connections() {
		d, known := p.table.KnownDirection(&f)
		c := &connection{flow: f, direction: d, known: known}
		c.candidate = p.mayMatch(c, &f)
		p.connections = append(p.connections, c)
	}

	query := sockdiag.Query{States: p.selector.StateSet(), Selector: p.selector, Info: true}
	for f, err := range p.conn.Flows(ctx, query) {
		if err != nil {
			return fmt.Errorf("read flows: %w", err)
		}
		if i, ok := p.table.Connection(&f); ok {
			c := p.connections[i]
			c.candidate = c.candidate || p.mayMatch(c, &f)
			continue
		}
		if isActiveSubflow(&f) && !p.table.LacksMPTCPDiag(&f) {
			continue // its connection is younger than the dump
		}
		switch d, known := p.table.KnownDirection(&f); {
		case isOver(&f):
			p.addClosing(&f, d)
		case known, !p.selector.MatchEvidence(&f):
			p.addFlow(f, d)
		case p.selector.MayMatch(&f):
			p.undecided = append(p.undecided, f)
		}
	}
	if err := p.addUndecided(ctx); err != nil {
		return err
	}
	return p.addConnections(ctx)
}

// mayMatch reports whether the address of a connection, or of a subflow of it, matches. If
// the direction is a guess, a match in one direction is enough.
func (p *planner) mayMatch(c *connection, f *sockdiag.Flow) bool {
	if c.known {
		return p.selector.MatchEndpoint(f, c.direction)
	}
	return p.selector.MayMatch(f)
}

// addFlow adds a TCP flow that is not an MPTCP subflow, or a subflow of a connection that
// the kernel does not list, if it matches.
func (p *planner) addFlow(f sockdiag.Flow, d sockdiag.Direction) {
	if !p.selector.MatchEndpoint(&f, d) {
		return
	}
	if !p.selector.Direction.Includes(d) {
		p.leftAlone = append(p.leftAlone, f.Inode)
		return
	}
	p.add(&target{Result: hangup.Result{Flow: f, Direction: d}, hidden: p.table.LacksMPTCPDiag(&f)}, p.selector.MatchEvidence(&f))
}

// add adds a target if it has the evidence, and only counts it otherwise.
func (p *planner) add(t *target, evident bool) {
	if !evident {
		p.lacking = append(p.lacking, t.Flow.Inode)
		return
	}
	p.targets = append(p.targets, t)
}

// addClosing counts a flow that is over.
func (p *planner) addClosing(f *sockdiag.Flow, d sockdiag.Direction) {
	if p.selector.Direction.Includes(d) && p.selector.MatchEndpoint(f, d) {
		p.closing = append(p.closing, f.Inode)
	}
}

// isOver reports whether this side has closed or shut down the flow and the peer has
// acknowledged it. Only the peer's FIN is missing.
func isOver(f *sockdiag.Flow) bool { return f.State == sockdiag.FinWait2 && f.ClosedHere() }

// addConnections adds the MPTCP connections that match by a subflow, or by their own
// address when no subflow is left. It dumps again, without the selector: the evidence
// needs all subflows.
func (p *planner) addConnections(ctx context.Context) error {
	if !slices.ContainsFunc(p.connections, func(c *connection) bool { return c.candidate }) {
		return nil
	}
	query := sockdiag.Query{States: sockdiag.Open, Info: true}
	for f, err := range p.conn.Flows(ctx, query) {
		if err != nil {
			return fmt.Errorf("read subflows: %w", err)
		}
		if i, ok := p.table.Connection(&f); ok && p.connections[i].candidate {
			p.connections[i].subflows = append(p.connections[i].subflows, f)
		}
	}
	for _, c := range p.connections {
		if err := p.addConnection(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// addConnection adds a connection that matches by a subflow, or its matching subflows in
// Path mode. A connection without subflows is always added as a whole. Connections that are
// over are skipped, and connections of the other direction only counted.
func (p *planner) addConnection(ctx context.Context, c *connection) error {
	endpoints := c.subflows
	if len(c.subflows) == 0 {
		endpoints = []sockdiag.Flow{c.flow}
	}
	if !c.candidate {
		return nil
	}
	if len(c.subflows) == 0 && c.flow.ShutDown || isOver(&c.flow) {
		p.addClosing(&c.flow, c.direction)
		return nil
	}
	if !p.subflowsOnly && excludes(p.selector, &c.flow, c.subflows) {
		return nil
	}
	evident := p.selector.StateSet().Has(c.flow.State) && connectionMatches(p.selector, &c.flow, c.subflows)
	whole := &target{Result: hangup.Result{Flow: c.flow, Subflows: c.subflows, Direction: c.direction}}
	if !c.known && evident {
		d, decided, err := p.decide(ctx, &c.flow, endpoints, c.initial(), c.direction)
		if err != nil {
			return err
		}
		if !decided {
			p.refuse(whole)
			return nil
		}
		c.direction, whole.Direction = d, d
	}
	switch {
	case !slices.ContainsFunc(endpoints, func(f sockdiag.Flow) bool { return p.selector.MatchEndpoint(&f, c.direction) }):
	case !p.selector.Direction.Includes(c.direction):
		p.leftAlone = append(p.leftAlone, c.flow.Inode)
	case p.subflowsOnly && len(c.subflows) > 0:
		p.addSubflows(c)
	default:
		p.add(whole, evident)
	}
	return nil
}

// addSubflows adds the matching subflows of a connection.
func (p *planner) addSubflows(c *connection) {
	for _, f := range c.subflows {
		if !p.selector.MatchEndpoint(&f, c.direction) {
			continue
		}
		p.add(&target{
			Result:     hangup.Result{Flow: f, Direction: c.direction},
			connection: &c.flow,
			siblings:   c.subflows,
		}, p.selector.StateSet().Has(f.State) && p.selector.MatchEvidence(&f))
	}
}

// sortTargets sorts by empty queues first, then by idle time, longest first.
func sortTargets(targets []*target) {
	slices.SortStableFunc(targets, func(a, b *target) int {
		ai, _ := a.Flow.Idle()
		bi, _ := b.Flow.Idle()
		return cmp.Or(cmp.Compare(queued(&a.Flow), queued(&b.Flow)), cmp.Compare(bi, ai), cmp.Compare(a.Flow.Cookie, b.Flow.Cookie))
	})
}

func queued(f *sockdiag.Flow) int {
	if f.SendQueue > 0 || f.ReceiveQueue > 0 {
		return 1
	}
	return 0
}
