package actuator

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// planner sorts one reading of the kernel's table into targets.
type planner struct {
	conn     *sockdiag.Conn
	selector *sockdiag.Selector
	path     bool

	table       *sockdiag.Table
	connections []*connection // parallel to table.Connections

	targets            []*target
	covered, leftAlone int
}

// plan reads listeners, MPTCP connections and TCP flows, in this order.
func (p *planner) plan(ctx context.Context) error {
	var err error
	if p.table, err = p.conn.Table(ctx); err != nil {
		return err
	}
	for _, f := range p.table.Connections() {
		d := p.table.Direction(&f)
		p.connections = append(p.connections, &connection{flow: f, direction: d, candidate: p.selector.MatchEndpoint(&f, d)})
	}

	query := sockdiag.Query{States: p.selector.StateSet(), Selector: p.selector, Info: true}
	for f, err := range p.conn.Flows(ctx, query) {
		if err != nil {
			return fmt.Errorf("read flows: %w", err)
		}
		if i, ok := p.table.Connection(&f); ok {
			if c := p.connections[i]; p.selector.MatchEndpoint(&f, c.direction) {
				c.candidate, c.matched = true, true
			}
			continue
		}
		if isLivePath(&f) {
			continue // of a connection that is younger than this plan
		}
		p.addFlow(f)
	}
	return p.addConnections(ctx)
}

// addFlow takes a TCP flow that is no path of an MPTCP connection.
func (p *planner) addFlow(f sockdiag.Flow) {
	if isOver(&f) {
		return
	}
	d := p.table.Direction(&f)
	if !p.selector.MatchEndpoint(&f, d) {
		return
	}
	if !p.selector.Direction.Includes(d) {
		p.leftAlone++
		return
	}
	p.covered++
	if p.selector.MatchEvidence(&f) {
		p.targets = append(p.targets, &target{Result: hangup.Result{Flow: f, Direction: d}})
	}
}

// isOver reports whether there is nothing left to hang up: this side has ended the
// flow, by itself or by an earlier action, and the peer knows. What is left waits
// for the peer's end like TIME_WAIT.
func isOver(f *sockdiag.Flow) bool {
	return f.State == sockdiag.FinWait2 && (f.Inode == 0 || f.ShutDown)
}

// addConnections takes the MPTCP connections that matched by a path, or that have
// none left and matched by their own address. All their subflows are needed for
// that, which the selector kept back.
func (p *planner) addConnections(ctx context.Context) error {
	candidates := 0
	for _, c := range p.connections {
		if c.candidate {
			candidates++
		}
	}
	if candidates == 0 {
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
		p.addConnection(c)
	}
	return nil
}

// addConnection takes a connection whose subflows have been read: as a whole, or in
// Path mode its matching subflows. One without subflows always counts as a whole. It
// leaves out connections that are over, and counts those that only their direction
// keeps out.
func (p *planner) addConnection(c *connection) {
	pathless := len(c.subflows) == 0
	if pathless && c.flow.ShutDown || isOver(&c.flow) {
		return
	}
	if !c.candidate || !c.matched && !pathless {
		return
	}
	if !p.selector.Direction.Includes(c.direction) {
		p.leftAlone++
		return
	}
	if p.path && !pathless {
		p.addPaths(c)
		return
	}
	p.covered++
	if p.selector.StateSet().Has(c.flow.State) && connectionShows(p.selector, &c.flow, c.subflows) {
		p.targets = append(p.targets, &target{Result: hangup.Result{Flow: c.flow, Subflows: c.subflows, Direction: c.direction}})
	}
}

// addPaths takes the matching subflows of a connection.
func (p *planner) addPaths(c *connection) {
	for _, f := range c.subflows {
		if !p.selector.MatchEndpoint(&f, c.direction) {
			continue
		}
		p.covered++
		if p.selector.StateSet().Has(f.State) && p.selector.MatchEvidence(&f) {
			p.targets = append(p.targets, &target{
				Result:     hangup.Result{Flow: f, Direction: c.direction},
				connection: &c.flow,
				siblings:   c.subflows,
			})
		}
	}
}

// sortTargets puts flows with empty queues first, the longest idle ones first of all.
func sortTargets(targets []*target) {
	slices.SortStableFunc(targets, func(a, b *target) int {
		if c := cmp.Compare(queued(&a.Flow), queued(&b.Flow)); c != 0 {
			return c
		}
		ai, _ := a.Flow.Idle()
		bi, _ := b.Flow.Idle()
		return cmp.Or(cmp.Compare(bi, ai), cmp.Compare(a.Flow.Cookie, b.Flow.Cookie))
	})
}

func queued(f *sockdiag.Flow) int {
	if f.SendQueue > 0 || f.ReceiveQueue > 0 {
		return 1
	}
	return 0
}
