// Package hangup defines the request to hang up flows, its report and their JSON form.
// The command line, the alert receiver, the actuator and the HTTP API share them.
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
	// Auto selects Shutdown for each flow where it is possible and safe, else Destroy.
	Auto Method = "auto"
	// Shutdown calls shutdown(2) on a duplicate of the application's socket, which sends a
	// FIN after the queued data.
	Shutdown Method = "shutdown"
	// Destroy uses SOCK_DESTROY, which sends a RST and discards queued data.
	Destroy Method = "destroy"
	// None is the method of a flow that was not hung up.
	None Method = "none"
)

// Methods returns the valid methods of a Request.
func Methods() []Method { return []Method{Auto, Shutdown, Destroy} }

// MPTCPMode selects the scope of a hang-up when a subflow of an MPTCP connection matches.
type MPTCPMode string

const (
	// Connection hangs up the whole connection.
	Connection MPTCPMode = "connection"
	// Path destroys the matching subflows only, while another established subflow
	// remains; the application is not affected.
	Path MPTCPMode = "path"
)

// MPTCPModes returns the valid MPTCP modes of a Request.
func MPTCPModes() []MPTCPMode { return []MPTCPMode{Connection, Path} }

// Defaults of the command line and of policies.
const (
	DefaultLinger      = 3 * time.Second
	DefaultDrainAnswer = 10 * time.Second
	DefaultReceiveWait = 2 * time.Second
)

// Request selects flows and configures their hang-up. The zero value selects no flows.
type Request struct {
	// Policy is the policy name in metrics and logs.
	Policy   string
	Selector sockdiag.Selector
	// Owner selects flows by their processes, before the hang-up and directly before each one
	// again. A flow without a visible process then does not match. A flow that a process
	// outside of the filter holds as well is refused.
	Owner OwnerFilter
	// Namespaces are distinct network namespaces; the selector applies to each, and the
	// limits to all of them together. Empty means the namespace of this process.
	Namespaces []Namespace
	// Never excludes flows: they are refused even if Selector matches.
	Never []sockdiag.Selector
	// Shared reports whether a flow may belong to a service that has the address now; such
	// flows are refused. It also gets the subflows of MPTCP connections. nil refuses none.
	Shared func(*sockdiag.Flow) bool
	// Other reports whether a flow belongs to another service at the same address; such
	// flows are not selected. nil excludes none.
	Other func(*sockdiag.Flow) bool
	// EstablishedBefore excludes flows that were established later and refuses flows of
	// unknown age, by the current wall clock; zero excludes none.
	EstablishedBefore time.Time
	Method            Method    // "" means Auto
	MPTCP             MPTCPMode // "" means Connection
	// SIGPIPESafe are commands (/proc/PID/comm) whose processes never receive SIGPIPE despite
	// its default disposition, because each of their writes suppresses it (MSG_NOSIGNAL).
	SIGPIPESafe []string
	// DryRun finds owners and runs every safety check, but closes no flow.
	DryRun bool
	// MaxFlows and MaxFraction limit an action: it refuses all flows if more match.
	// MaxFraction is relative to Report.Covered. 0 means no limit.
	MaxFlows    int
	MaxFraction float64
	// Linger is how long the peer has to acknowledge the FIN; 0 means DefaultLinger.
	Linger time.Duration
	// Rate is in flows per second, with jitter; 0 means no limit.
	Rate float64
	// DrainQuiet is how long a flow must be quiet before its hang-up, with no response
	// missing. DrainDeadline limits the wait for it; 0 means no wait. DrainAnswer is how long
	// a flow must be quiet if the kernel's times do not show whether a response is missing.
	DrainQuiet, DrainDeadline, DrainAnswer time.Duration
	// ReceiveWait limits the wait for a flow that is receiving data, for an inbound flow
	// sending it: after a FIN in the middle of a message, some clients take the part for the
	// whole. 0 means no wait. It does not apply to method Destroy.
	ReceiveWait time.Duration
	// WatchReconnect is how long to watch for new flows of the applications; 0 disables
	// the watch. The report does not wait for it: see Report.AwaitReconnects.
	WatchReconnect time.Duration
	// Reconnected is called for each flow that WatchReconnect sees replaced, with Reconnect
	// set, also after HangUp has returned. Calls do not overlap. nil skips it.
	Reconnected func(*Result)
	// Begin is called before the first flow is touched, with the number of flows to hang
	// up. A dry run, and an action that hangs up none, do not call it.
	Begin func(flows int)
	// Done is called once for each flow of the report, as soon as its outcome is final.
	// Reconnect is not set yet. The Result is valid during the call only. HangUp waits for
	// Begin and Done; both may be nil.
	Done func(*Result)
	// Progress is called when the activity or its counts change, without Begin in a dry run
	// too. HangUp waits for it; it may be nil.
	Progress func(Progress)
}

// Progress is the current activity of an action.
type Progress struct {
	Activity Activity
	// Done of Total flows are finished with the activity; both are 0 if it has no count.
	Done, Total int
	// Until is when the activity ends at the latest, or is expected to end; zero if unknown.
	Until time.Time
}

// Activity is a step of an action that may take long.
type Activity string

// The activities, in their order. Draining repeats HangingUp for the flows that were busy.
const (
	FindingOwners Activity = "searching for the owners of the connections"
	HangingUp     Activity = "hanging up"
	Draining      Activity = "waiting for connections to become quiet"
	AwaitingPeers Activity = "waiting for the peers to close"
)

// WithDefaults returns the request with defaults for zero values. It returns an error
// that names the first invalid field.
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
		return r, errors.New("shut down MPTCP subflow: not supported; use method auto or destroy")
	case math.IsInf(r.Rate, 0):
		return r, fmt.Errorf("invalid rate %v: not finite", r.Rate)
	}
	for _, path := range r.Owner.Cgroups {
		if parsed, err := ParseCgroup(path); err != nil || parsed != path {
			return r, fmt.Errorf("invalid cgroup %q: not the path of a cgroup below the root", path)
		}
	}
	for _, field := range []struct {
		name  string
		value float64
	}{
		{"linger", r.Linger.Seconds()},
		{"rate", r.Rate},
		{"flow limit", float64(r.MaxFlows)},
		{"fraction limit", r.MaxFraction},
		{"drain quiet time", r.DrainQuiet.Seconds()},
		{"drain deadline", r.DrainDeadline.Seconds()},
		{"drain answer time", r.DrainAnswer.Seconds()},
		{"receive wait", r.ReceiveWait.Seconds()},
		{"reconnect watch time", r.WatchReconnect.Seconds()},
	} {
		if math.IsNaN(field.value) || field.value < 0 {
			return r, fmt.Errorf("invalid %s %v: not a number of at least 0", field.name, field.value)
		}
	}
	return r, nil
}
