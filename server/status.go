package server

import (
	"context"
	"net/http"
	"time"

	"tcphup/statuspage"
)

// pageTimeout bounds the scan of the sockets for the status page.
const pageTimeout = 5 * time.Second

// State implements statuspage.Source.
func (x *server) State(r *http.Request) statuspage.State {
	ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
	defer cancel()
	s := statuspage.State{
		Private: x.maySeePeers(r), Started: x.started,
		Receiver: x.receiver.Status(), Decisions: x.audit.Records(), Checks: x.selfTest.results(),
	}
	s.Snapshot, s.SnapshotErr = x.collector.Snapshot(ctx)
	s.Services = x.watcher.Status()
	return s
}
