package statuspage

import (
	"net/http"
	"time"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/audit"
	"tcphup/collector"
	"tcphup/services"
)

// Source returns the state for the page.
type Source interface {
	// State returns the present state, restricted to the rights of the client. It must be
	// safe for concurrent use.
	State(r *http.Request) State
}

// State is the content of one page. The page takes ownership of the slices.
type State struct {
	// Private is set if the client may see processes, peers and details.
	Private  bool
	Started  time.Time
	Receiver alerts.Status
	// Decisions are the last audit records, oldest first.
	Decisions []audit.Record
	// Checks are the results of the self-test.
	Checks      []actuator.Check
	Snapshot    *collector.Snapshot
	SnapshotErr error // Snapshot is nil if set
	// Services must be read after Snapshot, whose scan counts their sockets.
	Services []services.Status
}
