package sockdiag

import (
	"context"
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// manyFlows is the number of flows above which a dump with Query.Ahead has two readers. It
// counts flows and not time: the kernel walks the table of the whole host, and two walks at
// once would only cost more in a small namespace of a busy host.
const manyFlows = 20_000

// dumpBoth implements Flows by one walk of the kernel's table for both families, or by two
// walks in parallel. It reports whether it has dumped them; if not, it has not called yield.
func (c *Conn) dumpBoth(ctx context.Context, q Query, attributes []netlink.Attribute, yield func(Flow, error) bool) (dumped bool) {
	if q.Protocol != TCP || len(q.Families) > 0 || c.separate {
		return false
	}
	if q.Ahead && c.dumped > manyFlows {
		// The attributes have the bytecode of a selector.
		c.readAheadFlows(ctx, q, c.profile.split(q.Selector == nil), attributes, yield)
		return true
	}
	var flows profile
	first := true
	r := request{family: bothFamilies, protocol: q.Protocol, info: q.Info, states: q.States}
	for f, err := range c.exchange(ctx, typeBothFamilies, netlink.Dump, r, attributes) {
		switch {
		case first && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)):
			c.separate = true
			return false
		case err != nil:
			yield(Flow{}, dumpError(q.Protocol, err))
			return true
		}
		first = false
		if q.Ahead {
			flows.add(&f)
		}
		if (q.Selector == nil || q.Selector.MayMatch(&f)) && !yield(f, nil) {
			return true
		}
	}
	if q.Ahead {
		c.dumped, c.profile = flows.flows(), flows
	}
	return true
}
