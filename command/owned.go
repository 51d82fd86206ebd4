package command

import (
	"context"

	"tcphup/actuator"
	"tcphup/sockdiag"
)

// owned has the flows of the processes that an owner filter selects.
type owned struct {
	flows     []*listedFlow
	leftAlone int             // flows of the same processes in the other direction
	owners    actuator.Owners // the selected ones
	unknown   int             // flows without a visible process
	other     int             // flows of other processes
}

// scanOwned returns the flows in the namespaces of the scope that match the selector and the owner filter. A flow that a
// process outside of the filter holds as well is included: hangup refuses it.
func (s *selection) scanOwned(ctx context.Context, in *scope, selector *sockdiag.Selector) (owned, error) {
	both := *selector
	both.Direction = sockdiag.Either
	var all []*listedFlow
	if _, err := in.scan(ctx, &both, func(f *listedFlow) { all = append(all, f) }); err != nil {
		return owned{}, err
	}
	var found owned
	var err error
	if found.owners, err = actuator.FilterOwners(ctx, plainFlows(all), &s.owner); err != nil {
		return owned{}, err
	}
	var rest []*listedFlow
	for _, f := range all {
		_, selected := found.owners.ByInode[f.Inode]
		switch ours := selector.Direction.Includes(f.direction); {
		case selected && ours:
			found.flows = append(found.flows, f)
		case selected:
			found.leftAlone++
		case ours && f.Inode != 0:
			rest = append(rest, f)
		}
	}
	everyone, err := actuator.FindOwners(ctx, plainFlows(rest), in.inodes()...)
	if err != nil {
		return owned{}, err
	}
	for _, f := range rest {
		if _, known := everyone.ByInode[f.Inode]; known {
			found.other++
		} else {
			found.unknown++
		}
	}
	found.owners.Processes, found.owners.Unreadable, found.owners.Unsearched = everyone.Processes, everyone.Unreadable, everyone.Unsearched
	return found, nil
}

func plainFlows(listed []*listedFlow) []sockdiag.Flow {
	flows := make([]sockdiag.Flow, len(listed))
	for i, f := range listed {
		flows[i] = f.Flow
	}
	return flows
}
