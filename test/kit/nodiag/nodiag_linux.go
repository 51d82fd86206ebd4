// Package nodiag emulates a kernel without the module mptcp_diag.
package nodiag

import (
	"context"
	"iter"

	"tcphup/sockdiag"
)

// Conn is a connection whose MPTCP dumps fail as without mptcp_diag. TCP dumps, with the
// subflows of MPTCP connections, are real.
type Conn struct{ *sockdiag.Conn }

// Flows implements sockdiag.Reader.
func (c Conn) Flows(ctx context.Context, q sockdiag.Query) iter.Seq2[sockdiag.Flow, error] {
	if q.Protocol != sockdiag.MPTCP {
		return c.Conn.Flows(ctx, q)
	}
	return func(yield func(sockdiag.Flow, error) bool) { yield(sockdiag.Flow{}, sockdiag.ErrNoMPTCPDiag) }
}
