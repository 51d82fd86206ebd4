package alerts

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"

	"tcphup/hangup"
	"tcphup/internal/address"
)

// Rules is the part of the configuration that may change while the receiver
// runs.
type Rules struct {
	// Policies are tried in order; the first that matches an alert decides about it,
	// also when it refuses. None means that no alert does anything.
	Policies []Policy
	// Never holds what no policy may touch.
	Never []Endpoint
	// Services are the names that a policy with a service label knows.
	Services []Service
}

// DefaultRules is what applies without a configuration: the policy Labelled.
func DefaultRules() Rules { return Rules{Policies: []Policy{Labelled()}} }

// Service is a name with the port that it is served on.
type Service struct {
	Name string
	Port uint16
}

// Policy says which alerts it accepts, which destinations they may touch, with
// what evidence and within what limits.
type Policy struct {
	// Name is the value of the label policy in metrics and records.
	Name string
	// Match must all match the alert's labels, where a missing label counts as an
	// empty one. At least one must need a label that is there.
	Match labels.Matchers
	// Allow says which destinations the policy may touch.
	Allow Allow
	// Ports holds the ports it may touch; none means every port.
	Ports []uint16
	// Labels says where an alert names its destination.
	Labels LabelNames
	// Evidence is what a flow's own state must show.
	Evidence Evidence
	Method   hangup.Method    // Auto when empty
	MPTCP    hangup.MPTCPMode // Connection when empty
	Limits   Limits
	Drain    Drain
	// Linger is how long a flow may take to end.
	Linger time.Duration
	// Shadow plans and reports and closes nothing.
	Shadow bool
}

// Allow is a set of destinations. An alert names a subset of it or is refused.
type Allow struct {
	// Prefixes may be named whole or in part.
	Prefixes []netip.Prefix
	// Names allow the addresses that the name has now or had before, one at a time.
	Names []string
	// AnyAddress allows every single address, and no prefix wider than that.
	AnyAddress bool
}

// LabelNames are the names of the labels that carry the destination. Empty ones
// mean "destination" and "port".
type LabelNames struct {
	Destination, Port string
	// Service, when it is not empty, replaces both: the label has the name of a
	// service, and the destination is what the service has left behind, its former
	// addresses, with the service's port.
	Service string
}

// Evidence restricts a policy to flows that look stale by themselves. Zero values
// ask for nothing.
type Evidence struct {
	Idle        time.Duration // no data in either direction for this long
	PeerSilence time.Duration // nothing acknowledged for this long
	Stalled     bool          // probes or retransmissions go unanswered
	// EstablishedBeforeAlert keeps flows that came up after the alert's startsAt.
	EstablishedBeforeAlert bool
}

// Limits bound what one alert, and alerts over time, can do.
type Limits struct {
	// Flows and Fraction are the budget of one action; with more, nothing is closed.
	// 0 means no limit.
	Flows    int
	Fraction float64
	// Rate is in flows a second; 0 means no pacing.
	Rate float64
	// Cooldown is how long a destination is left alone after flows to it were hung
	// up.
	Cooldown time.Duration
	// MaxAlertAge refuses alerts that have been firing for longer; 0 means never.
	MaxAlertAge time.Duration
	// Breaker opens when a policy acts too often.
	Breaker Breaker
}

// Breaker stops a policy that keeps on hanging up. While it is open everything is
// refused; it closes Window after it has opened.
type Breaker struct {
	// Actions is how often flows to one destination may be hung up within Window;
	// one more opens the breaker of that destination. 0 means no limit.
	Actions int
	// Destinations is how many different destinations the policy may hang up within
	// Window, and how many one notification may name; one more opens the breaker
	// of the whole policy. 0 means no limit.
	Destinations int
	Window       time.Duration
}

// Drain is the patience with busy flows.
type Drain struct {
	Quiet, Deadline time.Duration
}

// DefaultLimits returns the limits of a policy that names none.
func DefaultLimits() Limits {
	return Limits{
		Flows:       500,
		Fraction:    1,
		Rate:        50,
		Cooldown:    time.Minute,
		MaxAlertAge: 24 * time.Hour,
		Breaker:     Breaker{Actions: 10, Destinations: 20, Window: time.Hour},
	}
}

// LabelledName is the name of the policy that Labelled returns.
const LabelledName = "labelled"

// Labelled returns the embedded policy that applies when there is no
// configuration: alerts with the label tcphup="hangup" may name any single
// address, loopback included, because whoever can set that label on an alert and
// holds a token of the receiver has said exactly what to hang up. A prefix wider
// than one address is refused: an operator who wants that writes a policy and
// says in it how far it goes.
func Labelled() Policy {
	return Policy{
		Name:   LabelledName,
		Match:  labels.Matchers{{Type: labels.MatchEqual, Name: "tcphup", Value: "hangup"}},
		Allow:  Allow{AnyAddress: true},
		Limits: DefaultLimits(),
		Linger: hangup.DefaultLinger,
	}
}

// ParseMatchers parses Alertmanager's matcher syntax: one matcher, or several
// with commas between them.
func ParseMatchers(text string) (labels.Matchers, error) {
	parsed, err := labels.ParseMatchers(text)
	if err != nil {
		return nil, err
	}
	if len(parsed) == 0 {
		return nil, errors.New("no matcher in it")
	}
	return parsed, nil
}

// matches reports whether the policy is for an alert with these labels.
func (p *Policy) matches(alert map[string]string) bool {
	for _, m := range p.Match {
		if !m.Matches(alert[m.Name]) {
			return false
		}
	}
	return true
}

// Validate returns what is wrong with the rules, all of it, or nil.
func (r *Rules) Validate() error {
	var errs []error
	seen := make(map[string]bool)
	for i := range r.Policies {
		p := &r.Policies[i]
		if seen[p.Name] {
			errs = append(errs, fmt.Errorf("policy %q: the name is used twice", p.Name))
		}
		seen[p.Name] = true
		if err := p.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("policy %q: %w", p.Name, err))
		}
	}
	for _, e := range r.Never {
		if err := validatePrefix(e.Prefix); err != nil {
			errs = append(errs, fmt.Errorf("never: %w", err))
		}
	}
	services := make(map[string]bool)
	for _, s := range r.Services {
		if s.Name == "" || s.Port == 0 || services[s.Name] {
			errs = append(errs, fmt.Errorf("service %q: needs a name of its own and a port", s.Name))
		}
		services[s.Name] = true
	}
	return errors.Join(errs...)
}

// Validate returns what is wrong with the policy, all of it, or nil.
func (p *Policy) Validate() error {
	var errs []error
	check := func(ok bool, message string) {
		if !ok {
			errs = append(errs, errors.New(message))
		}
	}
	check(p.Name != "", "name is missing")
	check(slices.ContainsFunc(p.Match, func(m *labels.Matcher) bool { return !m.Matches("") }),
		"match needs at least one matcher that an alert without labels does not satisfy")
	check(len(p.Allow.Prefixes)+len(p.Allow.Names) > 0 || p.Allow.AnyAddress, "allow is missing")
	for _, prefix := range p.Allow.Prefixes {
		if err := validatePrefix(prefix); err != nil {
			errs = append(errs, fmt.Errorf("allow: %w", err))
		}
	}
	check(!slices.Contains(p.Ports, 0), "ports must be from 1 to 65535")
	check(p.Method == "" || slices.Contains(hangup.Methods(), p.Method),
		"method must be auto, shutdown or destroy")
	check(p.MPTCP == "" || slices.Contains(hangup.MPTCPModes(), p.MPTCP),
		"mptcp must be connection or path")
	l := p.Limits
	check(l.Flows >= 0 && l.Rate >= 0 && l.Cooldown >= 0 && l.MaxAlertAge >= 0 &&
		l.Breaker.Actions >= 0 && l.Breaker.Destinations >= 0 && l.Breaker.Window >= 0,
		"limits must not be negative")
	check(l.Fraction >= 0 && l.Fraction <= 1, "limits.fraction must be from 0 to 1")
	check(l.Breaker.Window > 0 || l.Breaker.Actions == 0 && l.Breaker.Destinations == 0,
		"limits.breaker needs a window")
	check(p.Evidence.Idle >= 0 && p.Evidence.PeerSilence >= 0 && p.Drain.Quiet >= 0 &&
		p.Drain.Deadline >= 0 && p.Linger >= 0, "durations must not be negative")
	return errors.Join(errs...)
}

func validatePrefix(p netip.Prefix) error {
	canonical, err := address.FromPrefix(p)
	if err == nil && canonical != p {
		err = fmt.Errorf("%s is IPv4 written as IPv6, write it as IPv4: %s", p, canonical)
	}
	return err
}
