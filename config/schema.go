package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"
	"go.yaml.in/yaml/v3"

	"tcphup/alerts"
	"tcphup/hangup"
	"tcphup/internal/address"
)

// The structs of this file are the schema. The tag yaml holds the key; decoder checks the
// other tags. required marks a mandatory key, min and max bound a number or a duration,
// oneof lists the values of a string.

type file struct {
	Defaults yaml.Node   `yaml:"defaults"` // settings
	Policies []yaml.Node `yaml:"policies"` // policy, merged into the defaults
	Never    []endpoint  `yaml:"never"`
	Services []yaml.Node `yaml:"services"` // service
}

type policy struct {
	Name  policyName `yaml:"name" required:"true"`
	Match []matchers `yaml:"match" required:"true"`
	Allow []host     `yaml:"allow" required:"true"`
	Ports []uint16   `yaml:"ports" min:"1" max:"65535"`

	Namespaces []namespaceName `yaml:"namespaces"`
	TokenFile  absolutePath    `yaml:"token_file"`

	settings `yaml:",inline"`
}

// settings are the common keys of policies and defaults.
type settings struct {
	Labels   labelNames    `yaml:"labels"`
	Evidence evidence      `yaml:"evidence"`
	Method   string        `yaml:"method" oneof:"auto, shutdown, destroy"`
	MPTCP    string        `yaml:"mptcp" oneof:"connection, path"`
	Limits   limits        `yaml:"limits"`
	Drain    drain         `yaml:"drain"`
	Linger   time.Duration `yaml:"linger" min:"100ms"`
	Receive  time.Duration `yaml:"receive_wait"`
	Shadow   bool          `yaml:"shadow"`

	SIGPIPESafe []commandName `yaml:"sigpipe_safe"`
}

type labelNames struct {
	Destination labelName `yaml:"destination"`
	Port        labelName `yaml:"port"`
	Service     labelName `yaml:"service"`
}

type evidence struct {
	Idle                   time.Duration `yaml:"idle"`
	PeerSilence            time.Duration `yaml:"peer_silence"`
	Stalled                bool          `yaml:"stalled"`
	EstablishedBeforeAlert bool          `yaml:"established_before_alert"`
}

type limits struct {
	Flows       int           `yaml:"flows" min:"1" max:"1000000"`
	Fraction    float64       `yaml:"fraction" max:"1"`
	Rate        float64       `yaml:"rate" max:"10000"`
	Cooldown    time.Duration `yaml:"cooldown"`
	MaxAlertAge time.Duration `yaml:"max_alert_age" min:"1s"`
	Breaker     breaker       `yaml:"breaker"`
}

type breaker struct {
	Actions      int           `yaml:"actions" min:"1" max:"1000000"`
	Destinations int           `yaml:"destinations" min:"1" max:"1000000"`
	Window       time.Duration `yaml:"window" min:"1s"`
}

type drain struct {
	Quiet    time.Duration `yaml:"quiet"`
	Deadline time.Duration `yaml:"deadline"`
	Answer   time.Duration `yaml:"answer"`
}

type service struct {
	Name     hostName      `yaml:"name" required:"true"`
	Port     uint16        `yaml:"port" required:"true" min:"1" max:"65535"`
	Resolver nameServer    `yaml:"resolver"`
	Settle   time.Duration `yaml:"settle" min:"1s"`
	Interval time.Duration `yaml:"interval" min:"1s"`
}

func defaultSettings() settings {
	l := alerts.DefaultLimits()
	return settings{
		Limits:  limits{l.Flows, l.Fraction, l.Rate, l.Cooldown, l.MaxAlertAge, breaker(l.Breaker)},
		Drain:   drain{Answer: hangup.DefaultDrainAnswer},
		Linger:  hangup.DefaultLinger,
		Receive: hangup.DefaultReceiveWait,
	}
}

// rule converts a policy of the file.
func (p *policy) rule() alerts.Policy {
	rule := alerts.Policy{
		Name:      string(p.Name),
		Ports:     p.Ports,
		TokenFile: string(p.TokenFile),
		Labels: alerts.LabelNames{
			Destination: string(p.Labels.Destination), Port: string(p.Labels.Port), Service: string(p.Labels.Service),
		},
		Evidence: alerts.Evidence(p.Evidence),
		Method:   hangup.Method(p.Method),
		MPTCP:    hangup.MPTCPMode(p.MPTCP),
		Limits: alerts.Limits{
			Flows: p.Limits.Flows, Fraction: p.Limits.Fraction, Rate: p.Limits.Rate, Cooldown: p.Limits.Cooldown,
			MaxAlertAge: p.Limits.MaxAlertAge, Breaker: alerts.Breaker(p.Limits.Breaker),
		},
		Drain:  alerts.Drain(p.Drain),
		Linger: p.Linger, ReceiveWait: p.Receive,
		Shadow: p.Shadow,
	}
	for _, c := range p.SIGPIPESafe {
		rule.SIGPIPESafe = append(rule.SIGPIPESafe, string(c))
	}
	for _, n := range p.Namespaces {
		rule.Namespaces = append(rule.Namespaces, string(n))
	}
	for _, m := range p.Match {
		rule.Match = append(rule.Match, m...)
	}
	for _, h := range p.Allow {
		if h.name != "" {
			rule.Allow.Names = append(rule.Allow.Names, h.name)
		} else {
			rule.Allow.Prefixes = append(rule.Allow.Prefixes, h.prefix)
		}
	}
	return rule
}

type policyName string

var policyNameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}$`)

func (p *policyName) UnmarshalText(text []byte) error {
	if !policyNameForm.Match(text) {
		return fmt.Errorf("%q is not a policy name: use up to 63 letters, digits, _ and -, with a letter or digit first", text)
	}
	*p = policyName(text)
	return nil
}

type labelName string

var labelNameForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (l *labelName) UnmarshalText(text []byte) error {
	if !labelNameForm.Match(text) {
		return fmt.Errorf("%q is not a label name: use letters, digits and _, with no digit first", text)
	}
	*l = labelName(text)
	return nil
}

type namespaceName string

func (n *namespaceName) UnmarshalText(text []byte) error {
	*n = namespaceName(text)
	return alerts.CheckNamespace(string(text))
}

type absolutePath string

func (p *absolutePath) UnmarshalText(text []byte) error {
	*p = absolutePath(text)
	if !filepath.IsAbs(string(text)) {
		return fmt.Errorf("%q is not an absolute path: write one such as /etc/tcphup/shop.token", text)
	}
	return nil
}

type commandName string

func (c *commandName) UnmarshalText(text []byte) error {
	*c = commandName(text)
	return hangup.CheckCommand(string(text))
}

type hostName string

func (h *hostName) UnmarshalText(text []byte) error {
	name, err := address.ParseName(string(text))
	*h = hostName(name)
	return err
}

// nameServer is the address of a name server; the default port is 53.
type nameServer netip.AddrPort

func (s *nameServer) UnmarshalText(text []byte) error {
	prefix, port, err := address.ParseEndpoint(string(text))
	addr := prefix.Addr()
	if err != nil || !prefix.IsSingleIP() || addr.Is6() && addr.IsLinkLocalUnicast() {
		return fmt.Errorf("%q is not the address of a name server: write one such as 10.96.0.10, 10.96.0.10:5353 or \"[fd00::10]:53\"", text)
	}
	*s = nameServer(netip.AddrPortFrom(addr, cmp.Or(port, dnsPort)))
	return nil
}

const dnsPort = 53

type matchers labels.Matchers

func (m *matchers) UnmarshalText(text []byte) error {
	parsed, err := alerts.ParseMatchers(string(text))
	if err != nil {
		return fmt.Errorf(`%w: write it like 'alertname="TcphupStaleSockets"' or 'team=~"a|b"'`, err)
	}
	*m = matchers(parsed)
	return nil
}

// host is a name, or a prefix if name is empty.
type host struct {
	prefix netip.Prefix
	name   string
}

func (h *host) UnmarshalText(text []byte) (err error) {
	h.prefix, h.name, err = address.ParseHost(string(text))
	return err
}

type endpoint alerts.Endpoint

func (e *endpoint) UnmarshalText(text []byte) (err error) {
	e.Prefix, e.Port, err = address.ParseEndpoint(string(text))
	return err
}
