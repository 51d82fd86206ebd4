// Package hangup holds the values that the command line, the alert receiver, the
// actuator and the HTTP API share: a request to hang up flows, the report about it,
// and the JSON form of a flow.
package hangup

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"tcphup/sockdiag"
)

// Method is a way to hang up a flow.
type Method string

const (
	// Auto selects, for each flow, Shutdown where it is possible and safe, else Destroy.
	Auto Method = "auto"
	// Shutdown calls shutdown(2) on a duplicate of the application's socket: FIN.
	Shutdown Method = "shutdown"
	// Destroy uses SOCK_DESTROY: RST, queued data is lost.
	Destroy Method = "destroy"
	// None is the method of a flow that was not acted on.
	None Method = "none"
)

// Methods returns the methods that a Request may have.
func Methods() []Method { return []Method{Auto, Shutdown, Destroy} }

// MPTCPMode selects what is hung up when a selector matches a subflow of an MPTCP
// connection.
type MPTCPMode string

const (
	// Connection hangs up the whole connection.
	Connection MPTCPMode = "connection"
	// Path destroys the matching subflows alone, and only where another
	// established one remains: the application notices nothing.
	Path MPTCPMode = "path"
)

// MPTCPModes returns the modes that a Request may have.
func MPTCPModes() []MPTCPMode { return []MPTCPMode{Connection, Path} }

// DefaultLinger is how long the peer has to acknowledge the FIN.
const DefaultLinger = 3 * time.Second

// Request selects flows and sets how they are hung up. The zero Request hangs up
// nothing.
type Request struct {
	// Policy names the rule behind the request, in metrics and logs.
	Policy   string
	Selector sockdiag.Selector
	// Never names flows that are refused even where Selector matches them.
	Never []sockdiag.Selector
	// EstablishedBefore, unless zero, excludes flows that are not known to have been
	// established at that time, by the clock as it is set now.
	EstablishedBefore time.Time
	Method            Method    // "" means Auto
	MPTCP             MPTCPMode // "" means Connection
	// DryRun finds owners and runs every safety check, and closes nothing.
	DryRun bool
	// MaxFlows and MaxFraction (of the flows that the selector covers, with or
	// without evidence) bound an action: when more would be hung up, none is.
	// 0 means no bound.
	MaxFlows    int
	MaxFraction float64
	// Linger is how long the peer has to acknowledge the FIN; 0 means DefaultLinger.
	Linger time.Duration
	// Rate is in flows a second, with jitter; 0 means no pause between flows.
	Rate float64
	// DrainQuiet is how long a flow must have been quiet before it is hung up, and
	// DrainDeadline how long an action waits for that. A DrainDeadline of 0 means no
	// wait.
	DrainQuiet, DrainDeadline time.Duration
	// WatchReconnect is how long to watch for new flows of the applications; 0
	// disables the watch. With WatchLater the report does not wait for it: reconnects
	// go to the log and the metrics alone.
	WatchReconnect time.Duration
	WatchLater     bool
}

// WithDefaults returns the request with its zero values replaced by their defaults,
// or the first setting that is not valid.
func (r Request) WithDefaults() (Request, error) {
	if r.Method == "" {
		r.Method = Auto
	}
	if r.MPTCP == "" {
		r.MPTCP = Connection
	}
	if r.Linger == 0 {
		r.Linger = DefaultLinger
	}
	switch {
	case !slices.Contains(Methods(), r.Method):
		return r, fmt.Errorf("unknown method %q", r.Method)
	case !slices.Contains(MPTCPModes(), r.MPTCP):
		return r, fmt.Errorf("unknown MPTCP mode %q", r.MPTCP)
	case r.MPTCP == Path && r.Method == Shutdown:
		return r, errors.New("a single MPTCP path cannot be shut down, only destroyed: use method auto or destroy")
	case math.IsNaN(r.Rate), math.IsInf(r.Rate, 0), math.IsNaN(r.MaxFraction):
		return r, errors.New("a bound is no number")
	case r.Linger < 0, r.Rate < 0, r.MaxFlows < 0, r.MaxFraction < 0, r.DrainQuiet < 0, r.DrainDeadline < 0, r.WatchReconnect < 0:
		return r, errors.New("a bound or a duration is negative")
	}
	return r, nil
}
