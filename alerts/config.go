package alerts

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Config is what a Receiver keeps for its whole life; what may be reloaded is in
// Rules. The zero Config is valid: without credentials, everything in shadow.
type Config struct {
	// TokenFile holds the bearer tokens that are accepted, one a line; empty means
	// that none is asked for. It must not be readable by other users.
	TokenFile string
	// ListenerAuthenticates says that the listener lets only authenticated clients
	// through (client certificates or basic auth in its web configuration). With a
	// TokenFile as well, both are needed.
	ListenerAuthenticates bool
	// CheckListener is asked before every request whether ListenerAuthenticates still
	// holds, for a listener whose configuration may change while it runs; an error
	// turns the request away with 503. nil means that it cannot change.
	CheckListener func() error
	// Shadow plans and reports and closes nothing, whatever the policies say.
	Shadow bool
	// NoListener is set where no listener serves the receiver. The policies are then in
	// shadow and the mode is exporter.
	NoListener bool
	// PauseFile pauses everything while it exists; empty means that there is none.
	PauseFile string

	// Timeout is how long a request may take, from its arrival to its answer; 0 means
	// 9 s, because Alertmanager gives every attempt at least 10 s.
	Timeout time.Duration
	// MaxNotifications is how many notifications are worked on at once, MaxActions
	// how many alerts over all of them; the others wait. 0 means 64 and 4.
	MaxNotifications int
	MaxActions       int
	// ClockSkew is how far in the future an alert may have started; 0 means 30 s.
	ClockSkew time.Duration

	// WatchReconnect is how long new flows of the applications are watched for after a
	// hang-up, for the log and the metrics; 0 disables the watch.
	WatchReconnect time.Duration

	// Names resolves the names in Rules; nil when they have none.
	Names Names
	// Audit records decisions; nil means that only the last DefaultAuditSize are
	// kept, in memory.
	Audit *Audit
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// HasCredentials reports whether clients must show who they are. Without, nothing
// is ever closed, and the receiver belongs on loopback only.
func (c *Config) HasCredentials() bool { return c.TokenFile != "" || c.ListenerAuthenticates }

func (c *Config) withDefaults() (Config, error) {
	d := *c
	if d.Timeout < 0 || d.MaxNotifications < 0 || d.MaxActions < 0 || d.ClockSkew < 0 || d.WatchReconnect < 0 {
		return d, errors.New("check receiver configuration: limits must not be negative")
	}
	d.Timeout = cmp.Or(d.Timeout, 9*time.Second)
	d.MaxNotifications = cmp.Or(d.MaxNotifications, 64)
	d.MaxActions = cmp.Or(d.MaxActions, 4)
	d.ClockSkew = cmp.Or(d.ClockSkew, 30*time.Second)
	if d.Audit == nil {
		d.Audit = NewAudit(nil)
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

// checkRules validates rules for a receiver with this configuration.
func (c *Config) checkRules(rules *Rules) error {
	if err := rules.Validate(); err != nil {
		return fmt.Errorf("check rules: %w", err)
	}
	if c.Names != nil {
		return nil
	}
	for i := range rules.Policies {
		if p := &rules.Policies[i]; len(p.Allow.Names) > 0 || p.Labels.Service != "" {
			return fmt.Errorf("check rules: policy %q uses names, and nothing here resolves names", p.Name)
		}
	}
	return nil
}
