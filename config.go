package main

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"tcphup/alerts"
	"tcphup/internal/safefile"
	"tcphup/services"
)

// config is what the configuration file says.
type config struct {
	// Rules are those of the alert receiver. A file without the key policies has the
	// embedded policy; one with an empty list has none.
	Rules alerts.Rules
	// Services are the names that are watched for addresses that they leave behind.
	Services []service
}

// service is a watched name.
type service struct {
	Name string
	Port uint16
	// Settle is how long an address must be gone from the name's answers before it
	// counts as former.
	Settle time.Duration
	// Interval is the time between lookups of the name.
	Interval time.Duration
}

// defaultConfig is what applies without a configuration file.
func defaultConfig() config { return config{Rules: alerts.DefaultRules()} }

// names returns every name that has to be resolved: those of the services, and
// those that policies allow.
func (c *config) names() []string {
	var names []string
	for _, s := range c.Services {
		names = append(names, s.Name)
	}
	for i := range c.Rules.Policies {
		names = append(names, c.Rules.Policies[i].Allow.Names...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

const maxConfigSize = 1 << 20

// loadConfig reads a configuration file. The error names everything that is wrong
// with it, a line of text each: path:line, what, and what to write instead. A file
// that cannot be read as YAML at all gives only the first mistake. A file that
// others may change is refused (safefile.Check).
func loadConfig(path string) (config, error) {
	content, err := safefile.Read(path, maxConfigSize)
	if err != nil {
		return config{}, fmt.Errorf("read configuration: %w", err)
	}
	return parseConfig(path, content)
}

// parseConfig is loadConfig for what was read from path.
func parseConfig(path string, content []byte) (config, error) {
	c := defaultConfig()
	r := &configReader{yamlReader: yamlReader{path: path}, config: &c}
	if top := r.parse(content); top != nil {
		r.top(top)
	}
	if len(r.errs) > 0 {
		return config{}, errors.Join(r.errs...)
	}
	if err := c.Rules.Validate(); err != nil {
		return config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// configReader reads the document into config.
type configReader struct {
	yamlReader
	config *config
}

func (r *configReader) top(n *yaml.Node) {
	var policies, defaults *yaml.Node
	r.mapping(n, "the configuration", keys{
		"policies": func(n *yaml.Node) { policies = n },
		"defaults": func(n *yaml.Node) { defaults = n },
		"never": func(n *yaml.Node) {
			r.texts(n, "never", func(n *yaml.Node, text string) {
				endpoint, err := parseEndpoint(text)
				if err != nil {
					r.fail(n, "never: %q is %v", text, err)
					return
				}
				r.config.Rules.Never = append(r.config.Rules.Never, endpoint)
			})
		},
		"services": func(n *yaml.Node) { r.list(n, "services", r.service) },
	})
	base := alerts.Policy{Limits: alerts.DefaultLimits(), Linger: alerts.DefaultLinger}
	if defaults != nil {
		r.mapping(defaults, "defaults", r.settings(&base))
		r.checkSettings(defaults, &base)
	}
	if policies != nil {
		r.config.Rules.Policies = nil
		r.list(policies, "policies", func(n *yaml.Node) { r.policy(n, base) })
	}
}

// settings are the keys of a policy that defaults may have too.
func (r *configReader) settings(p *alerts.Policy) keys {
	return keys{
		"labels": func(n *yaml.Node) {
			r.mapping(n, "labels", keys{
				"destination": r.labelName(&p.Labels.Destination),
				"port":        r.labelName(&p.Labels.Port),
				"service":     r.labelName(&p.Labels.Service),
			})
		},
		"evidence": func(n *yaml.Node) {
			r.mapping(n, "evidence", keys{
				"idle":                     r.duration(&p.Evidence.Idle, "evidence.idle", 0),
				"peer_silence":             r.duration(&p.Evidence.PeerSilence, "evidence.peer_silence", 0),
				"stalled":                  r.boolean(&p.Evidence.Stalled, "evidence.stalled"),
				"established_before_alert": r.boolean(&p.Evidence.EstablishedBeforeAlert, "evidence.established_before_alert"),
			})
		},
		"method": r.choice(&p.Method, "method", alerts.MethodAuto, alerts.MethodShutdown, alerts.MethodDestroy),
		"mptcp":  r.choice(&p.MPTCP, "mptcp", alerts.MPTCPConnection, alerts.MPTCPPath),
		"limits": func(n *yaml.Node) {
			l := &p.Limits
			r.mapping(n, "limits", keys{
				"flows":         r.count(&l.Flows, "limits.flows"),
				"fraction":      r.number(&l.Fraction, "limits.fraction", 1),
				"rate":          r.number(&l.Rate, "limits.rate", 10_000),
				"cooldown":      r.duration(&l.Cooldown, "limits.cooldown", 0),
				"max_alert_age": r.duration(&l.MaxAlertAge, "limits.max_alert_age", time.Second),
				"breaker": func(n *yaml.Node) {
					r.mapping(n, "limits.breaker", keys{
						"actions":      r.count(&l.Breaker.Actions, "limits.breaker.actions"),
						"destinations": r.count(&l.Breaker.Destinations, "limits.breaker.destinations"),
						"window":       r.duration(&l.Breaker.Window, "limits.breaker.window", time.Second),
					})
				},
			})
		},
		"drain": func(n *yaml.Node) {
			r.mapping(n, "drain", keys{
				"quiet":    r.duration(&p.Drain.Quiet, "drain.quiet", 0),
				"deadline": r.duration(&p.Drain.Deadline, "drain.deadline", 0),
			})
		},
		"linger": r.duration(&p.Linger, "linger", 100*time.Millisecond),
		"shadow": r.boolean(&p.Shadow, "shadow"),
	}
}

// checkSettings finds settings that make no sense together.
func (r *configReader) checkSettings(n *yaml.Node, p *alerts.Policy) {
	if p.Drain.Quiet > p.Drain.Deadline {
		r.fail(n, "drain.deadline (%s) must not be shorter than drain.quiet (%s), or no busy flow could ever fall quiet",
			p.Drain.Deadline, p.Drain.Quiet)
	}
	if p.Labels.Service != "" && len(p.Labels.Destination+p.Labels.Port) > 0 {
		r.fail(n, "labels.service takes the place of labels.destination and labels.port: keep one or the other")
	}
}

var policyNameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}$`)

func (r *configReader) policy(n *yaml.Node, base alerts.Policy) {
	p, before := base, len(r.errs)
	known := r.settings(&p)
	known["name"] = func(n *yaml.Node) {
		text, ok := r.text(n, "name")
		if ok && !policyNameForm.MatchString(text) {
			r.fail(n, "name %q must be of letters, digits, _ and -, at most 63", text)
		}
		if ok && slices.ContainsFunc(r.config.Rules.Policies, func(p alerts.Policy) bool { return p.Name == text }) {
			r.fail(n, "name %q is used by an earlier policy: every policy needs a name of its own", text)
		}
		p.Name = text
	}
	known["match"] = func(n *yaml.Node) {
		r.texts(n, "match", func(n *yaml.Node, text string) {
			matchers, err := alerts.ParseMatchers(text)
			if err != nil {
				r.fail(n, `match: %v: write it like 'alertname="TcphupStaleSockets"' or 'team=~"a|b"'`, err)
			}
			p.Match = append(p.Match, matchers...)
		})
	}
	known["allow"] = func(n *yaml.Node) {
		r.texts(n, "allow", func(n *yaml.Node, text string) { r.allow(n, text, &p.Allow) })
	}
	known["ports"] = func(n *yaml.Node) {
		r.list(n, "ports", func(n *yaml.Node) {
			if port, ok := r.whole(n, "each entry of ports", 1, 65535); ok {
				p.Ports = append(p.Ports, uint16(port))
			}
		})
		if len(p.Ports) == 0 && len(r.errs) == before {
			r.fail(n, "ports must not be empty: leave the key out to allow every port")
		}
	}
	seen := r.mapping(n, "a policy", known)
	for _, key := range []string{"name", "match", "allow"} {
		if !seen[key] && resolve(n).Kind == yaml.MappingNode {
			r.fail(n, "the policy has no %s", key)
		}
	}
	r.checkSettings(n, &p)
	if len(r.errs) == before {
		if err := p.Validate(); err != nil {
			for mistake := range strings.SplitSeq(err.Error(), "\n") {
				r.fail(n, "policy %q: %s", p.Name, mistake)
			}
		}
	}
	r.config.Rules.Policies = append(r.config.Rules.Policies, p)
}

func (r *configReader) allow(n *yaml.Node, text string, a *alerts.Allow) {
	if isHostname(text) {
		a.Names = append(a.Names, strings.ToLower(text))
		return
	}
	prefix, err := parsePrefix(text)
	if err != nil {
		r.fail(n, "allow: %q is %v", text, err)
		return
	}
	a.Prefixes = append(a.Prefixes, prefix)
}

func (r *configReader) service(n *yaml.Node) {
	s := service{Settle: services.DefaultSettle, Interval: services.DefaultInterval}
	seen := r.mapping(n, "a service", keys{
		"name": func(n *yaml.Node) {
			text, ok := r.text(n, "name")
			if ok && !isHostname(text) {
				r.fail(n, "name %q is not a host name: write one that DNS resolves, such as db.internal", text)
			}
			s.Name = strings.ToLower(text)
		},
		"port": func(n *yaml.Node) {
			port, _ := r.whole(n, "port", 1, 65535)
			s.Port = uint16(port)
		},
		"settle":   r.duration(&s.Settle, "settle", time.Second),
		"interval": r.duration(&s.Interval, "interval", time.Second),
	})
	for _, key := range []string{"name", "port"} {
		if !seen[key] && resolve(n).Kind == yaml.MappingNode {
			r.fail(n, "the service has no %s", key)
		}
	}
	if slices.ContainsFunc(r.config.Services, func(other service) bool { return other.Name == s.Name }) {
		r.fail(n, "service %q is there already: every service needs a name of its own", s.Name)
	}
	r.config.Services = append(r.config.Services, s)
	r.config.Rules.Services = append(r.config.Rules.Services, alerts.Service{Name: s.Name, Port: s.Port})
}

var labelNameForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (r *configReader) labelName(to *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		text, ok := r.text(n, "a label's name")
		if ok && !labelNameForm.MatchString(text) {
			r.fail(n, "%q is not the name of a label: write letters, digits and _", text)
		}
		*to = text
	}
}

var hostnameForm = regexp.MustCompile(`(?i)^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?\.?$`)

// isHostname reports whether text is a name and cannot be meant as an address: the
// last part of a name begins with a letter.
func isHostname(text string) bool { return len(text) <= 253 && hostnameForm.MatchString(text) }

var errNotAddress = errors.New("not an address, a prefix or a name: " +
	"write one such as 10.20.0.0/16, 2001:db8::5 or db.internal")

// parsePrefix reads an address or a prefix.
func parsePrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, errNotAddress
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if prefix.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("IPv4 written as IPv6: write it as IPv4, such as %s", prefix.Addr().Unmap())
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("a prefix with bits set after its length: write %s, or %s for the one address",
			prefix.Masked(), prefix.Addr())
	}
	return prefix, nil
}

// parseEndpoint reads an address or a prefix, with or without a port: IPv6 needs
// brackets before a port.
func parseEndpoint(text string) (alerts.Endpoint, error) {
	prefix, err := parsePrefix(text)
	if !errors.Is(err, errNotAddress) {
		return alerts.Endpoint{Prefix: prefix}, err
	}
	host, port, ok := strings.Cut(text, "]:")
	if ok {
		host, ok = strings.CutPrefix(host, "[")
	} else if strings.Count(text, ":") == 1 {
		host, port, ok = strings.Cut(text, ":")
	}
	if ok {
		prefix, err = parsePrefix(host)
	}
	if errors.Is(err, errNotAddress) {
		return alerts.Endpoint{}, errors.New("not an address or prefix with or without a port: " +
			"write one such as 10.0.0.10:53, 10.0.0.0/24 or [2001:db8::/32]:53")
	}
	if err != nil {
		return alerts.Endpoint{}, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return alerts.Endpoint{}, errors.New("without a port from 1 to 65535 after its last colon")
	}
	return alerts.Endpoint{Prefix: prefix, Port: uint16(number)}, nil
}
