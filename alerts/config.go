package alerts

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"time"

	"tcphup/audit"
	"tcphup/hangup"
)

// Config configures a Receiver for its lifetime; Rules are reloadable. The zero Config is
// valid: without credentials every policy is in shadow mode.
type Config struct {
	// TokenFile is the file of accepted bearer tokens, one per line; empty requires no
	// token. It must not be readable by other users. Policies may have tokens of their own,
	// see Policy.TokenFile; pause, resume and other protected handlers accept these alone.
	TokenFile string
	// CheckListener verifies before every request that the listener authenticates clients,
	// by client certificates or basic auth; an error rejects the request with 503. nil means
	// that the listener does not. With a TokenFile, both are required.
	CheckListener func() error
	// Authenticated is called for each request with valid credentials; nil skips the call.
	Authenticated func(*http.Request)
	// Shadow puts every policy in shadow mode, see Policy.Shadow.
	Shadow bool
	// NoListener is set when no listener serves the receiver. Every policy is in shadow
	// mode and the mode is exporter.
	NoListener bool
	// PauseFile is the path of a file that pauses all actions while it exists; empty
	// disables it.
	PauseFile string

	// Timeout bounds a request from arrival to response; 0 means 9 s: Alertmanager waits
	// at least 10 s for each attempt.
	Timeout time.Duration
	// MaxNotifications limits concurrent notifications, MaxActions concurrent actions of
	// all notifications; the others wait. 0 means 64 and 4.
	MaxNotifications int
	MaxActions       int

	// WatchReconnect is how long to watch for new flows of the applications after an
	// action, for the log and the metrics; 0 disables it.
	WatchReconnect time.Duration

	// Pods returns the network namespaces of the pods of this node, each with its Pod. It is
	// called for each action, and its result is used for that action alone. nil means that
	// there are no pods: actions apply to the network namespace of this process. Otherwise
	// alerts must name a Kubernetes namespace, and no other network namespace is acted on.
	Pods func() ([]hangup.Namespace, error)
	// Names resolves the names in Rules; required only if they have names.
	Names Names
	// Audit records decisions; nil means in memory only.
	Audit *audit.Log
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// HasCredentials reports whether clients must authenticate. Without credentials no flow
// is ever closed, and the receiver should listen on loopback only.
func (c *Config) HasCredentials() bool { return c.TokenFile != "" || c.CheckListener != nil }

func (c *Config) withDefaults() (Config, error) {
	d := *c
	if d.Timeout < 0 || d.MaxNotifications < 0 || d.MaxActions < 0 || d.WatchReconnect < 0 {
		return d, errors.New("check receiver configuration: limits must not be negative")
	}
	d.Timeout = cmp.Or(d.Timeout, 9*time.Second)
	d.MaxNotifications = cmp.Or(d.MaxNotifications, 64)
	d.MaxActions = cmp.Or(d.MaxActions, 4)
	if d.Audit == nil {
		d.Audit = audit.New(nil)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.TokenFile != "" {
		if _, err := tokenFile(d.TokenFile).read(); err != nil {
			return d, fmt.Errorf("check credentials: %w", err)
		}
	}
	return d, nil
}
