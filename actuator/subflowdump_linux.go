package actuator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"tcphup/sockdiag"
)

// subflowDump is a dump of the subflows of all MPTCP connections. Several connections share
// it: before Linux 6.4 each of them needs one.
type subflowDump struct {
	from  sockdiag.Reader
	table *sockdiag.Table // the connections

	byCookie   map[uint64][]sockdiag.Flow // cookie of the connection
	validUntil time.Time
}

// of returns the current subflows of a connection, at least the given number if the kernel
// counts that many. A dump is valid for as long as it took, so that dumps take at most half of
// the time of an action, unless it lacks a subflow that has joined since.
func (d *subflowDump) of(ctx context.Context, connection *sockdiag.Flow, counted int) ([]sockdiag.Flow, error) {
	if known := d.byCookie[connection.Cookie]; time.Now().Before(d.validUntil) && len(known) >= counted {
		return known, nil
	}
	connections, byCookie, begun := d.table.Connections(), make(map[uint64][]sockdiag.Flow), time.Now()
	for f, err := range d.from.Flows(ctx, sockdiag.Query{States: sockdiag.Open, Info: true}) {
		if err != nil {
			return nil, fmt.Errorf("read subflows: %w", err)
		}
		if i, ok := d.table.Connection(&f); ok {
			cookie := connections[i].Cookie
			byCookie[cookie] = append(byCookie[cookie], f)
		}
	}
	d.byCookie = byCookie
	d.validUntil = time.Now().Add(time.Since(begun))
	return byCookie[connection.Cookie], nil
}

// refreshSubflows returns the current subflows of a connection by a lookup of each known
// one. It adds those of a dump if the kernel reports another count, or none (before Linux
// 6.4).
func (ns *namespace) refreshSubflows(ctx context.Context, now *sockdiag.Flow, known []sockdiag.Flow) ([]sockdiag.Flow, error) {
	subflows := make([]sockdiag.Flow, 0, len(known))
	for i := range known {
		f, err := ns.conn.Lookup(ctx, &known[i])
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, err
		case !hasEnded(f.State):
			subflows = append(subflows, f)
		}
	}
	if len(subflows) == len(known) && len(subflows) == int(now.MPTCPInfo.SubflowsTotal) {
		return subflows, nil
	}
	dumped, err := ns.subflows.of(ctx, now, int(now.MPTCPInfo.SubflowsTotal))
	if err != nil {
		return nil, err
	}
	for _, f := range dumped {
		if !slices.ContainsFunc(known, func(k sockdiag.Flow) bool { return k.Cookie == f.Cookie }) {
			subflows = append(subflows, f)
		}
	}
	return subflows, nil
}
