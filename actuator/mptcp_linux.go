package actuator

import (
	"context"
	"errors"
	"fmt"
	"os"

	"tcphup/sockdiag"
)

// connection is an MPTCP connection and what the dumps tell of it.
type connection struct {
	flow      sockdiag.Flow
	direction sockdiag.Direction
	// candidate says that a path of it, or its own address, matches.
	candidate bool
	// matched says that a path of it does.
	matched  bool
	subflows []sockdiag.Flow
}

// isLivePath reports whether a flow is known to be a path that its connection may
// depend on. One that is being closed has been given up by its connection.
func isLivePath(f *sockdiag.Flow) bool { return f.IsSubflow && !isClosing(f.State) }

// isClosing reports whether this side has closed the flow, or shut it down, and
// the end is on its way.
func isClosing(s sockdiag.State) bool {
	return sockdiag.States(sockdiag.FinWait1, sockdiag.FinWait2, sockdiag.Closing, sockdiag.LastAck).Has(s)
}

// readPaths returns the present paths of a connection.
func readPaths(ctx context.Context, conn *sockdiag.Conn, connection *sockdiag.Flow) ([]sockdiag.Flow, error) {
	var paths []sockdiag.Flow
	for f, err := range conn.Flows(ctx, sockdiag.Query{States: sockdiag.Open, Info: true}) {
		if err != nil {
			return nil, fmt.Errorf("read paths: %w", err)
		}
		if f.IsSubflowOf(connection) {
			paths = append(paths, f)
		}
	}
	return paths, nil
}

// refreshPaths returns the paths of a connection as they are now, given those that
// were known. The whole table is read only where some may have come or gone: when
// the kernel counts other ones, or does not count them at all (before 6.4).
func refreshPaths(ctx context.Context, conn *sockdiag.Conn, now *sockdiag.Flow, known []sockdiag.Flow) ([]sockdiag.Flow, error) {
	paths := make([]sockdiag.Flow, 0, len(known))
	for i := range known {
		path, err := conn.Lookup(ctx, &known[i])
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, err
		case !hasEnded(path.State):
			paths = append(paths, path)
		}
	}
	if len(paths) == len(known) && len(paths) == int(now.MPTCPInfo.SubflowsTotal) {
		return paths, nil
	}
	return readPaths(ctx, conn, now)
}

// connectionShows reports whether an MPTCP connection shows the evidence: by its
// own times, or, where the kernel does not tell them, by those of all its paths. It
// is stalled when each path is.
func connectionShows(s *sockdiag.Selector, connection *sockdiag.Flow, paths []sockdiag.Flow) bool {
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
	for i := range paths {
		if !each.MatchEvidence(&paths[i]) {
			return false
		}
	}
	// Without times and paths nothing shows for how long it has been idle.
	return connection.MPTCPInfo.HasTimes || len(paths) > 0 || s.MinIdle == 0 && s.MinPeerSilence == 0
}
