package statuspage

import (
	"net/http"
	"time"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/collector"
	"tcphup/services"
)

// Source supplies what the page shows.
type Source interface {
	// State returns the present state for the client that sent the request. It is
	// called for each request, concurrently.
	State(r *http.Request) State
}

// State is what one page shows. The page may change what the slices hold.
type State struct {
	// Private is set when the client may see processes, peers and details.
	Private bool
	Started time.Time
	// Receiver is the state of the alert receiver.
	Receiver alerts.Status
	// Decisions are the last records of the audit, the oldest first.
	Decisions []alerts.Record
	// Checks are the results of the self-test.
	Checks []actuator.Check
	// Snapshot holds the outbound destinations; nil after SnapshotErr.
	Snapshot    *collector.Snapshot
	SnapshotErr error
	// Services are read after the Snapshot, whose dump counts their sockets.
	Services []services.Status
}
