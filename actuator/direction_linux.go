package actuator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// undecidable is the detail of a flow that either side may have opened.
const undecidable = "cannot determine which side opened the connection: no listener has its port, " +
	"its byte counters are not usable, and its ports do not show it (net.ipv4.ip_local_port_range)"

// addUndecided adds the flows whose direction a dump could not determine.
func (p *planner) addUndecided(ctx context.Context) error {
	for _, f := range p.undecided {
		d, decided, err := p.decide(ctx, &f, []sockdiag.Flow{f}, &f, p.table.Direction(&f))
		switch {
		case err != nil:
			return err
		case decided:
			p.addFlow(f, d)
		default:
			p.refuse(&target{Result: hangup.Result{Flow: f, Direction: d}})
		}
	}
	return nil
}

// refuse adds a flow of unknown direction as refused.
func (p *planner) refuse(t *target) {
	t.refuse(hangup.ReasonDirection, undecidable)
	p.targets = append(p.targets, t)
}

// decide returns the direction of a flow that the table could only guess. Endpoints are the
// flow, or the subflows of an MPTCP connection; initial is the flow whose counters show the
// opener, or nil. The result is the guess if the selector includes both directions, or if
// the flow is gone. Otherwise the opener decides. If it is unknown, exactly one of the ports
// must be ephemeral: the local one of an outbound flow, the remote one of an inbound flow.
func (p *planner) decide(ctx context.Context, flow *sockdiag.Flow, endpoints []sockdiag.Flow, initial *sockdiag.Flow, guess sockdiag.Direction) (d sockdiag.Direction, decided bool, err error) {
	matches := func(d sockdiag.Direction) bool {
		return p.selector.Direction.Includes(d) &&
			slices.ContainsFunc(endpoints, func(f sockdiag.Flow) bool { return p.selector.MatchEndpoint(&f, d) })
	}
	if matches(sockdiag.Outbound) && matches(sockdiag.Inbound) {
		return guess, true, nil
	}
	opener := sockdiag.OpenerUnknown
	if initial != nil {
		opener, err = p.conn.Opener(ctx, initial)
	}
	switch {
	case errors.Is(err, os.ErrNotExist) && flow == initial:
		return guess, true, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return guess, false, fmt.Errorf("read opener: %w", err)
	case opener != sockdiag.OpenerUnknown:
		return opener.Direction(), true, nil
	}
	local, remote := p.table.Ephemeral.Contains(flow.Local.Port()), p.table.Ephemeral.Contains(flow.Remote.Port())
	return guess, local != remote && matches(guess), nil
}
