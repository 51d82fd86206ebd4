package sockdiag

import "context"

// openerLookups bounds the lookups for the opener of one flow: a few are enough, unless it
// transfers data in less time than two lookups take.
const openerLookups = 2000

// Opener returns the side that opened a TCP flow, also where data is in flight and after a
// FIN: it repeats Lookup until two results agree. For an MPTCP connection pass its initial
// subflow. The result is OpenerUnknown if no two agree, and for flows whose counters are
// not usable. Errors are those of Lookup.
func (c *Conn) Opener(ctx context.Context, flow *Flow) (Opener, error) {
	before, err := c.Lookup(ctx, flow)
	for range openerLookups {
		if err != nil {
			return OpenerUnknown, err
		}
		var now Flow
		if now, err = c.Lookup(ctx, flow); err != nil {
			return OpenerUnknown, err
		}
		if opener, agree := openerOfPair(&before, &now); agree {
			return opener, nil
		}
		before = now
	}
	return OpenerUnknown, nil
}
