package config

import (
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"tcphup/alerts"
	"tcphup/services"
)

// config decodes the top node of a document, or returns the default for nil.
func (d *decoder) config(top *yaml.Node) Config {
	c := Default()
	if top == nil {
		return c
	}
	var f file
	d.object(top, "the configuration", &f)
	for _, e := range f.Never {
		c.Rules.Never = append(c.Rules.Never, alerts.Endpoint(e))
	}
	for i := range f.Services {
		d.service(&f.Services[i], &c)
	}
	base := defaultSettings()
	if !f.Defaults.IsZero() {
		d.object(&f.Defaults, "defaults", &base)
		d.checkSettings(&f.Defaults, &base)
	}
	if f.Policies != nil {
		c.Rules.Policies = nil
	}
	for i := range f.Policies {
		d.policy(&f.Policies[i], base, &c.Rules)
	}
	return c
}

func (d *decoder) policy(n *yaml.Node, base settings, rules *alerts.Rules) {
	p, before := policy{settings: base}, len(d.mistakes)
	values := d.object(n, "a policy", &p)
	if p.Name != "" && slices.ContainsFunc(rules.Policies, func(other alerts.Policy) bool { return other.Name == string(p.Name) }) {
		d.fail(values["name"], "duplicate policy name %q", p.Name)
	}
	if p.Ports != nil && len(p.Ports) == 0 {
		d.fail(values["ports"], "ports must not be empty: omit the key to allow every port")
	}
	if p.Namespaces != nil && len(p.Namespaces) == 0 {
		d.fail(values["namespaces"], "namespaces must not be empty: list Kubernetes namespaces, or remove the key without node mode")
	}
	d.checkQuotes(values["match"])
	d.checkSettings(n, &p.settings)
	rule := p.rule()
	if len(d.mistakes) == before {
		if err := rule.Validate(); err != nil {
			for mistake := range strings.SplitSeq(err.Error(), "\n") {
				d.fail(n, "policy %q: %s", p.Name, mistake)
			}
		}
	}
	forNode := len(rule.Namespaces) > 0
	i := slices.IndexFunc(rules.Policies, func(other alerts.Policy) bool { return (len(other.Namespaces) > 0) != forNode })
	if i >= 0 && len(d.mistakes) == before {
		d.fail(n, "policy %q: only one of this policy and policy %q lists namespaces: with serve --node every policy needs them, and without it none may have them", p.Name, rules.Policies[i].Name)
	}
	rules.Policies = append(rules.Policies, rule)
}

// checkSettings records contradictory settings.
func (d *decoder) checkSettings(n *yaml.Node, s *settings) {
	if s.Drain.Quiet > s.Drain.Deadline {
		d.fail(n, "drain.deadline (%s) must not be shorter than drain.quiet (%s): no busy connection could become quiet in time",
			s.Drain.Deadline, s.Drain.Quiet)
	}
	if s.Labels.Service != "" && s.Labels.Destination+s.Labels.Port != "" {
		d.fail(n, "labels.service excludes labels.destination and labels.port: remove one or the other")
	}
}

func (d *decoder) service(n *yaml.Node, c *Config) {
	s := service{Settle: services.DefaultSettle, Interval: services.DefaultInterval}
	d.object(n, "a service", &s)
	watched := services.Service{
		Name: string(s.Name), Port: s.Port, Resolver: netip.AddrPort(s.Resolver), Settle: s.Settle, Interval: s.Interval,
	}
	if s.Name != "" && !c.addService(watched) {
		d.fail(n, "duplicate service name %q", s.Name)
	}
}
