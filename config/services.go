package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/pkg/labels"

	"tcphup/alerts"
	"tcphup/services"
)

// AddServices adds services to those of the file. If the embedded policy is the only
// policy, it also adds the embedded policy for services. A duplicate name is an error.
func (c *Config) AddServices(more []services.Service) error {
	for _, s := range more {
		if !c.addService(s) {
			return fmt.Errorf("duplicate service name %q", s.Name)
		}
	}
	p := c.Rules.Policies
	if len(c.Services) == 0 || len(p) != 1 || p[0].Name != alerts.LabelledName {
		return nil
	}
	stale, err := stalePolicy(c.Services)
	c.Rules.Policies = []alerts.Policy{stale, p[0]}
	return err
}

// addService returns false for a duplicate name.
func (c *Config) addService(s services.Service) bool {
	if slices.ContainsFunc(c.Services, named(s.Name)) {
		return false
	}
	c.Services = append(c.Services, s)
	c.Rules.Services = append(c.Rules.Services, alerts.Service{Name: s.Name, Port: s.Port})
	return true
}

// stalePolicy returns the embedded policy for services. It matches alerts with the label
// tcphup="hangup" and the name of a service in the label service, and hangs up the flows
// to former addresses of the service.
func stalePolicy(watched []services.Service) (alerts.Policy, error) {
	p := alerts.Labelled()
	p.Name, p.Allow, p.Labels.Service = "stale", alerts.Allow{}, "service"
	for _, s := range watched {
		p.Allow.Names = append(p.Allow.Names, s.Name)
	}
	matcher, err := labels.NewMatcher(labels.MatchRegexp, "service", strings.ReplaceAll(strings.Join(p.Allow.Names, "|"), ".", `\.`))
	p.Match = append(p.Match, matcher)
	return p, err
}
