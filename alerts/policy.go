package alerts

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/matcher/compat"
	"github.com/prometheus/alertmanager/pkg/labels"

	"tcphup/hangup"
	"tcphup/internal/address"
)

// Rules is the reloadable part of the configuration.
type Rules struct {
	// Policies are matched in order; the first match handles the alert, even if it refuses.
	// Without policies no alert has an effect.
	Policies []Policy
	// Never lists destinations that no policy may act on.
	Never []Endpoint
	// Services are the allowed values of a service label.
	Services []Service
}

// DefaultRules returns the rules without a configuration: the policy Labelled.
func DefaultRules() Rules { return Rules{Policies: []Policy{Labelled()}} }

// Service is a name with its port.
type Service struct {
	Name string
	Port uint16
}

// Policy defines the alerts that it matches, the allowed destinations, the required
// evidence and the limits.
type Policy struct {
	// Name is the value of the label policy in metrics and records; it is unique.
	Name string
	// Match are matchers that must all match the alert's labels; a missing label is empty.
	// At least one must not match the empty value.
	Match labels.Matchers
	// Namespaces are the allowed Kubernetes namespaces in node mode, by exact name. Then nil is
	// an error, and an empty list allows none: the policy is in shadow mode. Without node mode
	// it must be empty.
	Namespaces []string
	// TokenFile is the file of the tokens under which alerts of the policy must arrive, like
	// Config.TokenFile, which is then required. Empty means the tokens of Config.TokenFile.
	TokenFile string
	// Allow are the allowed destinations.
	Allow Allow
	// Ports are the allowed ports; empty allows every port.
	Ports []uint16
	// Labels are the names of the alert labels with the destination.
	Labels LabelNames
	// Evidence is the socket state that a flow must have.
	Evidence Evidence
	Method   hangup.Method    // Auto when empty
	MPTCP    hangup.MPTCPMode // Connection when empty
	Limits   Limits
	Drain    Drain
	// SIGPIPESafe are the commands of hangup.Request.SIGPIPESafe.
	SIGPIPESafe []string
	// Linger is how long the peer has to acknowledge the FIN.
	Linger time.Duration
	// ReceiveWait is how long to wait for the end of a message.
	ReceiveWait time.Duration
	// Shadow is shadow mode: every action of the policy is a dry run, which plans and
	// reports flows and closes none.
	Shadow bool
}

// Allow is a set of destinations. An alert for any other destination is refused.
type Allow struct {
	// Prefixes allows the prefixes and every part of them.
	Prefixes []netip.Prefix
	// Names allows single current and former addresses of the names.
	Names []string
	// AnyAddress allows every single address but no wider prefix.
	AnyAddress bool
}

// LabelNames are the names of the labels with the destination. Empty names mean
// "destination" and "port".
type LabelNames struct {
	Destination, Port string
	// Service replaces both unless it is empty: the label has the name of a service, and
	// the destination is its former addresses with its port.
	Service string
}

// all returns the names, with the defaults for empty ones.
func (n LabelNames) all() []string {
	return []string{cmp.Or(n.Destination, "destination"), cmp.Or(n.Port, "port"), n.Service}
}

// labels returns a function that reports whether the rules need the label of an alert, in
// node mode or without.
func (r *Rules) labels(node bool) func(name string) bool {
	needed := make(map[string]bool)
	for _, name := range exportedLabels {
		needed[name] = true
	}
	if node {
		for _, name := range slices.Concat(exportedPodLabels, []string{namespaceLabel, podLabel}) {
			needed[name] = true
		}
	}
	for i := range r.Policies {
		for _, name := range r.Policies[i].Labels.all() {
			needed[name] = true
		}
		for _, m := range r.Policies[i].Match {
			needed[m.Name] = true
		}
	}
	return func(name string) bool { return needed[name] }
}

// Evidence restricts a policy to flows with a stale socket state. Zero values require
// nothing.
type Evidence struct {
	Idle        time.Duration // no data in either direction for this long
	PeerSilence time.Duration // nothing acknowledged for this long
	Stalled     bool          // probes or retransmissions go unanswered
	// EstablishedBeforeAlert excludes flows established after the alert's startsAt.
	EstablishedBeforeAlert bool
}

// Limits bound the effect of one alert and of alerts over time.
type Limits struct {
	// Flows and Fraction are the budget of one action; if more flows match, none is closed.
	// 0 means no limit.
	Flows    int
	Fraction float64
	// Rate is in flows per second; 0 means no pacing.
	Rate float64
	// Cooldown is how long alerts for a destination are refused after an action that closed
	// flows to it.
	Cooldown time.Duration
	// MaxAlertAge refuses alerts that fire for longer; 0 means no limit.
	MaxAlertAge time.Duration
	// Breaker is the circuit breaker of the policy.
	Breaker Breaker
}

// Breaker is a circuit breaker. While it is open it refuses alerts; it closes Window after
// it opened.
type Breaker struct {
	// Actions limits the actions on one destination within Window; the next one opens the
	// breaker of the destination. 0 means no limit.
	Actions int
	// Destinations limits the destinations of the policy within Window and in one
	// notification; the next one opens the breaker of the policy. 0 means no limit.
	Destinations int
	Window       time.Duration
}

// Drain is how long to wait for busy flows: until no data was sent or received for Quiet
// and no response is missing, but no longer than Deadline. 0 disables it. Answer is how long
// a response may be missing if the kernel does not show it.
type Drain struct {
	Quiet, Deadline, Answer time.Duration
}

// DefaultLimits returns the limits of a policy without limits of its own.
func DefaultLimits() Limits {
	return Limits{
		Flows:       500,
		Fraction:    1,
		Rate:        50,
		Cooldown:    30 * time.Second,
		MaxAlertAge: 24 * time.Hour,
		Breaker:     Breaker{Actions: 10, Destinations: 20, Window: time.Hour},
	}
}

// LabelledName is the name of the policy that Labelled returns.
const LabelledName = "labelled"

// Labelled returns the built-in policy, which applies without a configuration. It matches
// the label tcphup="hangup" and allows any single address, loopback included: the sender
// has a token and set the label for exactly this destination. A wider prefix is refused,
// because it needs a policy with explicit limits. In node mode it allows no namespace.
func Labelled() Policy {
	return Policy{
		Name:       LabelledName,
		Match:      labels.Matchers{{Type: labels.MatchEqual, Name: "tcphup", Value: "hangup"}},
		Namespaces: []string{},
		Allow:      Allow{AnyAddress: true},
		Limits:     DefaultLimits(),
		Linger:     hangup.DefaultLinger,
	}
}

// ParseMatchers parses one or more matchers, separated by commas, as Alertmanager does: label
// names may be UTF-8 in double quotes, and text that only the syntax before Alertmanager 0.27
// allows has its old meaning. An empty list is an error.
func ParseMatchers(text string) (labels.Matchers, error) {
	parsed, err := compat.FallbackMatchersParser(slog.New(slog.DiscardHandler))(text, "")
	if err != nil {
		return nil, err
	}
	if len(parsed) == 0 {
		return nil, errors.New("no matcher")
	}
	return parsed, nil
}

// matches reports whether all matchers match the labels.
func (p *Policy) matches(alert map[string]string) bool {
	return !slices.ContainsFunc(p.Match, func(m *labels.Matcher) bool { return !m.Matches(alert[m.Name]) })
}

// Validate returns all errors in the rules, joined.
func (r *Rules) Validate() error {
	var errs []error
	seen := make(map[string]bool)
	for i := range r.Policies {
		p := &r.Policies[i]
		if seen[p.Name] {
			errs = append(errs, fmt.Errorf("policy %q: duplicate name", p.Name))
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
			errs = append(errs, fmt.Errorf("service %q: name must be unique, port must be set", s.Name))
		}
		services[s.Name] = true
	}
	return errors.Join(errs...)
}

// Validate returns all errors in the policy, joined.
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
	for _, name := range p.Namespaces {
		if err := CheckNamespace(name); err != nil {
			errs = append(errs, fmt.Errorf("namespaces: %w", err))
		}
	}
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
		p.Drain.Deadline >= 0 && p.Drain.Answer >= 0 && p.Linger >= 0 && p.ReceiveWait >= 0, "durations must not be negative")
	return errors.Join(errs...)
}

func validatePrefix(p netip.Prefix) error {
	canonical, err := address.FromPrefix(p)
	if err == nil && canonical != p {
		err = fmt.Errorf("%s is IPv4-mapped IPv6; write %s", p, canonical)
	}
	return err
}
