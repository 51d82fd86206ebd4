package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/pkg/labels"

	"tcphup/alerts"
	"tcphup/services"
)

// stalePolicyName is the name of the policy that stalePolicy returns.
const stalePolicyName = "stale"

// AddServices adds services from elsewhere to those of the file. If the configuration has
// only the embedded policy, it also adds the embedded policy for services.
func (c *Config) AddServices(more []services.Service) error {
	for _, s := range more {
		if !c.addService(s) {
			return fmt.Errorf("%q is there already: every service needs a name of its own", s.Name)
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

// addService returns false if the configuration has a service of that name.
func (c *Config) addService(s services.Service) bool {
	if slices.ContainsFunc(c.Services, func(other services.Service) bool { return other.Name == s.Name }) {
		return false
	}
	c.Services = append(c.Services, s)
	c.Rules.Services = append(c.Rules.Services, alerts.Service{Name: s.Name, Port: s.Port})
	return true
}

// stalePolicy returns the embedded policy for services: alerts with the label
// tcphup="hangup" and a service's name in the label service hang up the flows to its
// former addresses.
func stalePolicy(watched []services.Service) (alerts.Policy, error) {
	p := alerts.Labelled()
	p.Name, p.Allow, p.Labels.Service = stalePolicyName, alerts.Allow{}, "service"
	for _, s := range watched {
		p.Allow.Names = append(p.Allow.Names, s.Name)
	}
	isOne, err := labels.NewMatcher(labels.MatchRegexp, "service", strings.ReplaceAll(strings.Join(p.Allow.Names, "|"), ".", `\.`))
	p.Match = append(p.Match, isOne)
	return p, err
}
