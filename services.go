package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/alertmanager/pkg/labels"

	"tcphup/alerts"
	"tcphup/services"
)

// serviceFlags is the repeatable flag --service.
type serviceFlags []service

func (s *serviceFlags) String() string     { return fmt.Sprint([]service(*s)) }
func (s *serviceFlags) IsCumulative() bool { return true }
func (s *serviceFlags) Set(text string) error {
	name, port, err := parseService(text)
	if err == nil && port == 0 {
		err = fmt.Errorf("%q has no port: write NAME:PORT", text)
	}
	*s = append(*s, service{Name: name, Port: port, Settle: services.DefaultSettle, Interval: services.DefaultInterval})
	return err
}

// parseService reads NAME or NAME:PORT; without a port it returns 0.
func parseService(text string) (name string, port uint16, err error) {
	name = text
	if strings.Contains(text, ":") {
		var number string
		if name, number, err = net.SplitHostPort(text); err != nil {
			return "", 0, fmt.Errorf("%q is not a name with a port: write NAME:PORT", text)
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return "", 0, fmt.Errorf("%q is without a port from 1 to 65535 after the colon", text)
		}
		port = uint16(n)
	}
	if !isHostname(name) {
		return "", 0, fmt.Errorf("%q is not a host name: write one that DNS resolves, such as db.internal", name)
	}
	return strings.ToLower(name), port, nil
}

// stalePolicyName is the name of the policy that stalePolicy returns.
const stalePolicyName = "stale"

// addServices adds services that do not come from the file. Where no policies were
// written, the embedded ones then act on services too.
func (c *config) addServices(more []service) error {
	for _, s := range more {
		if slices.ContainsFunc(c.Services, func(other service) bool { return other.Name == s.Name }) {
			return fmt.Errorf("--service: %q is there already: every service needs a name of its own", s.Name)
		}
		c.Services = append(c.Services, s)
		c.Rules.Services = append(c.Rules.Services, alerts.Service{Name: s.Name, Port: s.Port})
	}
	p := c.Rules.Policies
	if len(c.Services) == 0 || len(p) != 1 || p[0].Name != alerts.LabelledName {
		return nil
	}
	stale, err := stalePolicy(c.Services)
	c.Rules.Policies = []alerts.Policy{stale, p[0]}
	return err
}

// stalePolicy returns the policy that applies to services as long as no policies
// are written: alerts with the label tcphup="hangup" and the name of one in the
// label service hang up what it has left behind.
func stalePolicy(watched []service) (alerts.Policy, error) {
	p := alerts.Labelled()
	p.Name, p.Allow, p.Labels.Service = stalePolicyName, alerts.Allow{}, "service"
	for _, s := range watched {
		p.Allow.Names = append(p.Allow.Names, s.Name)
	}
	isOne, err := labels.NewMatcher(labels.MatchRegexp, "service", strings.ReplaceAll(strings.Join(p.Allow.Names, "|"), ".", `\.`))
	p.Match = append(p.Match, isOne)
	return p, err
}

// watched returns every name that is to be watched: the services, and without a
// port the names that policies allow.
func (c *config) watched() []services.Service {
	var watched []services.Service
	for _, name := range c.names() {
		s := services.Service{Name: name}
		for _, known := range c.Services {
			if known.Name == name {
				s.Port, s.Settle, s.Interval = known.Port, known.Settle, known.Interval
			}
		}
		watched = append(watched, s)
	}
	return watched
}
