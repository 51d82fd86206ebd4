package actuator

import (
	"context"
	"errors"
	"slices"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// connection is an MPTCP connection of a dump.
type connection struct {
	flow      sockdiag.Flow
	direction sockdiag.Direction
	known     bool // direction is not a guess
	candidate bool // a subflow, or the connection's own address, may match
	subflows  []sockdiag.Flow
}

// initial returns the initial subflow, or nil if it is gone. It has the addresses of the
// connection.
func (c *connection) initial() *sockdiag.Flow {
	for i := range c.subflows {
		if f := &c.subflows[i]; f.Local == c.flow.Local && f.Remote == c.flow.Remote {
			return f
		}
	}
	return nil
}

// excludes reports whether the selector excludes the address of a connection or of one of
// its subflows.
func excludes(s *sockdiag.Selector, connection *sockdiag.Flow, subflows []sockdiag.Flow) bool {
	return s.Excludes(connection) || slices.ContainsFunc(subflows, func(f sockdiag.Flow) bool { return s.Excludes(&f) })
}

// isActiveSubflow reports whether f is a subflow that its connection may depend on. The
// connection no longer uses a closing subflow.
func isActiveSubflow(f *sockdiag.Flow) bool { return f.IsSubflow && !isClosing(f.State) }

// isClosing reports whether this side has closed or shut down a flow that has not ended.
func isClosing(s sockdiag.State) bool {
	return sockdiag.States(sockdiag.FinWait1, sockdiag.FinWait2, sockdiag.Closing, sockdiag.LastAck).Has(s)
}

// connectionMatches reports whether an MPTCP connection meets the selector's evidence.
// Idle times are of the connection, or of all subflows if the kernel reports none for
// it. The connection is stalled when every subflow is.
func connectionMatches(s *sockdiag.Selector, connection *sockdiag.Flow, subflows []sockdiag.Flow) bool {
	own, each := *s, *s
	own.Stalled = false
	if connection.MPTCPInfo.HasTimes {
		each.MinIdle, each.MinPeerSilence = 0, 0
	} else {
		own.MinIdle, own.MinPeerSilence = 0, 0
	}
	if !own.MatchEvidence(connection) {
		return false
	}
	for i := range subflows {
		if !each.MatchEvidence(&subflows[i]) {
			return false
		}
	}
	// Without times and subflows the idle time is unknown.
	return connection.MPTCPInfo.HasTimes || len(subflows) > 0 || s.MinIdle == 0 && s.MinPeerSilence == 0
}

const needsLinux61 = "shutdown of MPTCP connections needs Linux 6.1 or later"

// probeMPTCP is tryShutdown for MPTCP. It records whether it gave no EOF.
func (a *Actuator) probeMPTCP(ctx context.Context, in hangup.Namespace) (fix string, err error) {
	fix, err = a.tryShutdown(ctx, in, sockdiag.MPTCP)
	if err == nil || errors.Is(err, errNoEOF) {
		a.mptcpWithoutEOF.Store(err != nil)
	}
	return fix, err
}

// canShutDown reports whether shutdown(2) ends a flow for its application; if not, it
// refuses the flow. On Linux 5.10 an MPTCP connection loses its subflows, but the
// application reads no EOF. Before Linux 6.1, and after a self-test without EOF, an action
// therefore shuts down a test connection before its first MPTCP connection of a namespace.
func (x *action) canShutDown(ctx context.Context, t *target) bool {
	if t.Flow.Protocol != sockdiag.MPTCP {
		return true
	}
	if t.in.mptcpUsable == nil {
		var err error
		if x.mptcpWithoutEOF.Load() || !kernelAtLeast6(1) {
			_, err = x.probeMPTCP(ctx, t.in.Namespace)
		}
		t.in.mptcpUsable = &err
	}
	switch err := *t.in.mptcpUsable; {
	case err == nil:
		return true
	case errors.Is(err, errNoEOF), errors.Is(err, errNoMPTCP):
		t.refuse(hangup.ReasonPermission, needsLinux61+": "+err.Error())
	default:
		t.failUnlessDone(ctx, hangup.None, err)
	}
	return false
}
