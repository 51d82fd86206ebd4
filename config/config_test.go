package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/alerts"
	"tcphup/hangup"
	"tcphup/services"
	"tcphup/test/kit/addresses"
)

var (
	cmpPrefix   = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	cmpAddrPort = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
)

// The example file is valid, and its section defaults has the default values.
func TestExampleConfig(t *testing.T) {
	path := filepath.Join("..", "deploy", "tcphup.example.yml")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Rules.Policies) != 3 {
		t.Fatalf("%d policies", len(c.Rules.Policies))
	}
	database := c.Rules.Policies[0]
	if got := database.Match.String(); got != `{alertname="StaleKeepalives",team=~"payments|billing"}` {
		t.Errorf("match %s", got)
	}
	database.Match = nil
	limits := alerts.DefaultLimits()
	limits.Flows, limits.Fraction = 200, 0.5
	want := alerts.Policy{
		Name: "stale-database",
		Allow: alerts.Allow{
			Prefixes: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("2001:db8:20::/48")},
			Names:    []string{"db.internal"},
		},
		Ports:    []uint16{5432, 6432},
		Evidence: alerts.Evidence{Idle: 30 * time.Second, EstablishedBeforeAlert: true},
		Method:   hangup.Auto,
		MPTCP:    hangup.Connection,
		Limits:   limits,
		Drain:    alerts.Drain{Quiet: time.Second, Deadline: 20 * time.Second, Answer: 10 * time.Second},
		Linger:   hangup.DefaultLinger,

		ReceiveWait: 2 * time.Second,

		SIGPIPESafe: []string{"psql", "pgbouncer"},
	}
	if diff := cmp.Diff(want, database, cmpPrefix); diff != "" {
		t.Errorf("stale-database (-want +got):\n%s", diff)
	}
	failover, dead := c.Rules.Policies[1], c.Rules.Policies[2]
	if diff := cmp.Diff(alerts.DefaultLimits(), failover.Limits); diff != "" || failover.Labels.Service != "service" {
		t.Errorf("failover takes %+v, and the example's defaults differ (-want +got):\n%s", failover.Labels, diff)
	}
	if !dead.Shadow || dead.Method != hangup.Destroy || !dead.Evidence.Stalled ||
		dead.Evidence.PeerSilence != time.Minute || dead.Labels != (alerts.LabelNames{Destination: "peer", Port: "peer_port"}) {
		t.Errorf("dead-peers is %+v", dead)
	}
	never := []alerts.Endpoint{
		{Prefix: netip.MustParsePrefix("10.0.0.10/32"), Port: 53},
		{Prefix: netip.MustParsePrefix("2001:db8::53/128"), Port: 53},
		{Prefix: netip.MustParsePrefix("10.20.255.0/24")},
	}
	if diff := cmp.Diff(never, c.Rules.Never, cmpPrefix); diff != "" {
		t.Errorf("never (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]services.Service{{Name: "db.internal", Port: 5432, Settle: time.Minute, Interval: 15 * time.Second}}, c.Services, cmpAddrPort); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(c.Services, c.Watched(), cmpAddrPort); diff != "" {
		t.Errorf("watched (-want +got):\n%s", diff)
	}
	c.Rules.Policies[0].Allow.Names = []string{"db.internal", "cache.internal"}
	if diff := cmp.Diff(append(slices.Clone(c.Services), services.Service{Name: "cache.internal"}), c.Watched(), cmpAddrPort); diff != "" {
		t.Errorf("watched with a name of a policy (-want +got):\n%s", diff)
	}

	// Without its section defaults, the file has the same limits.
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	begin, end := strings.Index(text, "\ndefaults:"), strings.Index(text, "\n# The first policy")
	bare, err := Parse(path, []byte(text[:begin]+text[end:]))
	if err != nil {
		t.Fatal(err)
	}
	bare.Rules.Policies[1].Method, bare.Rules.Policies[1].MPTCP = hangup.Auto, hangup.Connection
	if diff := cmp.Diff(failover.Limits, bare.Rules.Policies[1].Limits); diff != "" {
		t.Errorf("limits without the defaults (-with +without):\n%s", diff)
	}
}

// The embedded policy applies if a file has no key policies.
func TestConfigWithoutPolicies(t *testing.T) {
	tests := []struct {
		name, content string
		policies      []string
	}{
		{"empty", "", []string{alerts.LabelledName}},
		{"comment", "# nothing yet\n", []string{alerts.LabelledName}},
		{"null", "---\n", []string{alerts.LabelledName}},
		{"other keys", "never: [10.0.0.1]\nservices: []\n", []string{alerts.LabelledName}},
		{"none", "policies: []\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("x.yml", []byte(tt.content))
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, p := range c.Rules.Policies {
				names = append(names, p.Name)
			}
			if diff := cmp.Diff(tt.policies, names); diff != "" {
				t.Errorf("policies (-want +got):\n%s", diff)
			}
		})
	}
}

// Defaults are merged into a policy key by key, and policies do not share memory.
func TestConfigDefaults(t *testing.T) {
	c, err := Parse("x.yml", []byte(`
defaults: {limits: {flows: 9, breaker: {actions: 2}}, drain: {quiet: 1s, deadline: 5s}, evidence: {stalled: true}}
policies:
  - {name: a, match: [a="b"], allow: ['::1'], limits: {rate: 1.5, breaker: {window: 2d}}, drain: {deadline: 1m}}
  - {name: b, match: ['a="b",c!="d"'], allow: [10.0.0.1], evidence: {stalled: false, idle: 1h30m}, ports: [1, 65535]}
`))
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Rules.Policies[0], c.Rules.Policies[1]
	limits := alerts.DefaultLimits()
	limits.Flows, limits.Breaker.Actions = 9, 2
	if diff := cmp.Diff(limits, b.Limits); diff != "" {
		t.Errorf("limits of b (-want +got):\n%s", diff)
	}
	limits.Rate, limits.Breaker.Window = 1.5, 48*time.Hour
	if diff := cmp.Diff(limits, a.Limits); diff != "" {
		t.Errorf("limits of a (-want +got):\n%s", diff)
	}
	if a.Drain != (alerts.Drain{Quiet: time.Second, Deadline: time.Minute, Answer: hangup.DefaultDrainAnswer}) || !a.Evidence.Stalled {
		t.Errorf("a is %+v", a)
	}
	if b.Evidence != (alerts.Evidence{Idle: 90 * time.Minute}) || len(b.Match) != 2 {
		t.Errorf("b is %+v", b)
	}
}

// Addresses follow the rules of package address.
func TestConfigAddresses(t *testing.T) {
	c, err := Parse("x.yml", []byte(`
policies: [{name: a, match: [a="b"], allow: ['::ffff:10.0.0.5', '::ffff:10.0.0.0/104', '[2001:db8::5]', 0.0.0.0/0, DB.internal]}]
never: ['::ffff:10.0.0.5', '[::ffff:10.0.0.0/104]:53', '[2001:db8::5]', '[2001:db8::]:53']
`))
	if err != nil {
		t.Fatal(err)
	}
	allow := alerts.Allow{Names: []string{"db.internal"}}
	for _, text := range []string{"10.0.0.5/32", "10.0.0.0/8", "2001:db8::5/128", "0.0.0.0/0"} {
		allow.Prefixes = append(allow.Prefixes, netip.MustParsePrefix(text))
	}
	if diff := cmp.Diff(allow, c.Rules.Policies[0].Allow, cmpPrefix); diff != "" {
		t.Errorf("allow (-want +got):\n%s", diff)
	}
	never := []alerts.Endpoint{
		{Prefix: netip.MustParsePrefix("10.0.0.5/32")}, {Prefix: netip.MustParsePrefix("10.0.0.0/8"), Port: 53},
		{Prefix: netip.MustParsePrefix("2001:db8::5/128")}, {Prefix: netip.MustParsePrefix("2001:db8::/128"), Port: 53},
	}
	if diff := cmp.Diff(never, c.Rules.Never, cmpPrefix); diff != "" {
		t.Errorf("never (-want +got):\n%s", diff)
	}
}

// Allow and never accept the same addresses as every other input.
func TestConfigSharedInputs(t *testing.T) {
	for _, tt := range addresses.Inputs() {
		c, err := Parse("x.yml", fmt.Appendf(nil, "policies: [{name: a, match: [a=\"b\"], allow: [%q]}]\nnever: [%[1]q]\n", tt.Text))
		switch {
		case tt.Fails != "":
			if err == nil || strings.Count(err.Error(), tt.Fails) != 2 {
				t.Errorf("%s: got %v, want two errors with %q", tt.Text, err, tt.Fails)
			}
		case err != nil || c.Rules.Policies[0].Allow.Prefixes[0].String() != tt.Want || c.Rules.Never[0].Prefix.String() != tt.Want:
			t.Errorf("%s: got %+v, %v; want %s", tt.Text, c.Rules, err, tt.Want)
		}
	}
}

// configMistake is a file and its expected mistakes.
type configMistake struct {
	name, content string
	want          []string
}

func configMistakes() []configMistake {
	policy := func(more string) string {
		return "policies:\n  - name: a\n    match: [a=\"b\"]\n    allow: [10.0.0.0/8]\n    " + more + "\n"
	}
	return []configMistake{
		{"not YAML", "policies:\n\t- x\n", []string{"x.yml:2: not YAML: found character that cannot start any token"}},
		{"not YAML at the end", "never: [10.0.0.1\n", []string{"x.yml:1: not YAML: did not find expected ',' or ']'"}},
		{"bad indentation", "policies:\n  - name: a\n    shadow: true\n   allow: [b]\n", []string{"x.yml:4: not YAML: did not find expected '-' indicator"}},
		{"list not closed", "never: []\npolicies:\n  - name: a\n    allow: [b\n    shadow: true\n", []string{"x.yml:4: not YAML: did not find expected ',' or ']'"}},
		{"quote not closed", "policies:\n  - name: a\n    allow: ['b]\n    shadow: true\n", []string{"x.yml:3: not YAML: found unexpected end of stream"}},
		{"list in a mapping", "never: []\n\n- a\nservices: []\n", []string{"x.yml:3: not YAML: did not find expected key"}},
		{"unknown alias", "never: []\n\nservices: *a\n", []string{"x.yml:3: not YAML: unknown anchor 'a' referenced"}},
		{"control character", "never: []\n\nservices: \"\x01\"\n", []string{"x.yml:3: not YAML: control characters are not allowed"}},
		{"not UTF-8", "never: []\n\nservices: \xff\n", []string{"x.yml:3: not YAML: invalid leading UTF-8 octet"}},
		{"wrong in the second document", "never: []\n---\n{\n", []string{"x.yml:3: not YAML: did not find expected node content"}},
		{"an alias for a key", "services: [&never {name: a.b, port: 1}]\n*never : []\n", []string{`x.yml:2: unknown key "" in the configuration: the known keys are`}},
		{"a list", "- a\n", []string{"x.yml:1: the configuration must be a mapping with the keys defaults, never, policies, services"}},
		{"two documents", "never: []\n---\nnever: []\n", []string{"x.yml:2: second document: only one is supported"}},
		{"unknown key", "polices: []\n", []string{`x.yml:1: unknown key "polices" in the configuration: did you mean "policies"?`}},
		{
			"unknown key without a similar one", "\nreceivers: []\n",
			[]string{`x.yml:2: unknown key "receivers" in the configuration: the known keys are defaults, never, policies, services`},
		},
		{"key twice", "never: []\nnever: []\n", []string{`x.yml:2: duplicate key "never" in the configuration`}},
		{"merge key", policy("<<: {shadow: true}"), []string{`x.yml:5: unknown key "<<" in a policy: the known keys are ` +
			"allow, drain, evidence, labels, limits, linger, match, method, mptcp, name, namespaces, ports, receive_wait, shadow, sigpipe_safe, token_file"}},
		{"not a list", "never: 10.0.0.1\n", []string{"x.yml:1: never must be a list: write [a, b], or one entry per line after a dash"}},
		{"null list", "never:\n", []string{"x.yml:1: never must be a list: write [a, b], or one entry per line after a dash"}},
		{
			"empty policy", "policies:\n  - shadow: true\n",
			[]string{`x.yml:2: missing key "name" in a policy`, `x.yml:2: missing key "match" in a policy`, `x.yml:2: missing key "allow" in a policy`},
		},
		{"policy a text", "policies: [a]\n", []string{"x.yml:1: a policy must be a mapping with the keys allow, drain, evidence, " +
			"labels, limits, linger, match, method, mptcp, name, namespaces, ports, receive_wait, shadow, sigpipe_safe, token_file"}},
		{"allow misspelt", policy("alow: []"), []string{`x.yml:5: unknown key "alow" in a policy: did you mean "allow"?`}},
		{
			"allow empty", "policies: [{name: a, match: [a=\"b\"], allow: []}]\n",
			[]string{`x.yml:1: policy "a": allow is missing`},
		},
		{
			"name", "policies: [{name: 'a b', match: [a=\"b\"], allow: ['::1']}]\n",
			[]string{`x.yml:1: name "a b" is not a policy name: use up to 63 letters, digits, _ and -, with a letter or digit first`},
		},
		{
			"name twice", "policies:\n- &p {name: a, match: [a=\"b\"], allow: ['::1']}\n- *p\n",
			[]string{`x.yml:2: duplicate policy name "a"`},
		},
		{
			"matcher", "policies:\n- name: a\n  match:\n  - a=\"b\"\n  - team\n  allow: ['::1']\n",
			[]string{`x.yml:5: match: bad matcher format: team: write it like 'alertname="TcphupStaleSockets"' or 'team=~"a|b"'`},
		},
		{
			"matcher's regexp", "policies: [{name: a, match: ['a=~\"(\"'], allow: ['::1']}]\n",
			[]string{"x.yml:1: match: error parsing regexp: missing closing ): `^(?:()$`: " +
				`write it like 'alertname="TcphupStaleSockets"' or 'team=~"a|b"'`},
		},
		{
			"matches everything", "policies: [{name: a, match: ['a!=\"b\"'], allow: ['::1']}]\n",
			[]string{`x.yml:1: policy "a": match needs at least one matcher that an alert without labels does not satisfy`},
		},
		{
			"matches everything, allows nothing", "policies: [{name: a, match: ['a!=\"b\"'], allow: []}]\n",
			[]string{`x.yml:1: policy "a": match needs at least one matcher`, `x.yml:1: policy "a": allow is missing`},
		},
		{"matcher of two lines", "policies: [{name: a, match: [\"a\\nb\"], allow: [c]}]\n", []string{`x.yml:1: match: bad matcher format: a\nb: write it like`}},
		{"method", policy("method: kill"), []string{"x.yml:5: method must be one of auto, shutdown, destroy"}},
		{"mptcp", policy("mptcp: [path]"), []string{"x.yml:5: mptcp must be one of connection, path"}},
		{"shadow with a tag", policy("shadow: !!bool yes"), []string{"x.yml:5: shadow must be true or false"}},
		{"shadow", policy("shadow: yes"), []string{"x.yml:5: shadow must be true or false"}},
		{"ports", policy("ports: [0, 65536, http, '80', 8.5]"), []string{
			"x.yml:5: each entry of ports must be a whole number from 1 to 65535", "x.yml:5: each entry of ports",
			"x.yml:5: each entry of ports", "x.yml:5: each entry of ports", "x.yml:5: each entry of ports",
		}},
		{"no ports", policy("ports: []"), []string{"x.yml:5: ports must not be empty: omit the key to allow every port"}},
		{"flows", policy("limits: {flows: 0}"), []string{"x.yml:5: limits.flows must be a whole number from 1 to 1000000"}},
		{"fraction", policy("limits: {fraction: 50}"), []string{"x.yml:5: limits.fraction must be a number above 0, at most 1"}},
		{"fraction NaN", policy("limits: {fraction: .nan}"), []string{"x.yml:5: limits.fraction must be a number above 0, at most 1"}},
		{"rate", policy("limits: {rate: -1}"), []string{"x.yml:5: limits.rate must be a number above 0, at most 10000"}},
		{"sigpipe_safe", policy("sigpipe_safe: [psql, 0123456789abcdef]"), []string{`x.yml:5: sigpipe_safe: "0123456789abcdef" is not a command name of 1 to 15 bytes`}},
		{"namespaces", policy("namespaces: [shop, _unknown, 'shop-*', Shop, '']"), []string{
			`x.yml:5: namespaces: "_unknown" is not the name of a Kubernetes namespace: write exact names, of up to 63 lower-case letters, digits and -`,
			`x.yml:5: namespaces: "shop-*" is not the name`, `x.yml:5: namespaces: "Shop" is not the name`,
			`x.yml:5: each entry of namespaces must be a non-empty string`,
		}},
		{"no namespaces", policy("namespaces: []"), []string{"x.yml:5: namespaces must not be empty: list Kubernetes namespaces, or remove the key without node mode"}},
		{"namespaces of one policy", "policies:\n- {name: a, match: [a=b], allow: ['::1']}\n- {name: b, match: [a=b], allow: ['::1'], namespaces: [shop]}\n", []string{
			`x.yml:3: policy "b": only one of this policy and policy "a" lists namespaces: with serve --node every policy needs them, and without it none may have them`,
		}},
		{"token file", policy("token_file: shop.token"), []string{`x.yml:5: token_file "shop.token" is not an absolute path: write one such as /etc/tcphup/shop.token`}},
		{"duration", policy("linger: 3"), []string{"x.yml:5: linger must be a duration such as 500ms, 30s, 5m or 1h, and at least 100ms"}},
		{"duration below the bound", policy("limits: {max_alert_age: 0s}"), []string{"x.yml:5: limits.max_alert_age must be a duration such as 500ms, 30s, 5m or 1h, and at least 1s"}},
		{
			"drain", policy("drain: {quiet: 1s}"),
			[]string{"x.yml:2: drain.deadline (0s) must not be shorter than drain.quiet (1s): no busy connection could become quiet in time"},
		},
		{"label", policy("labels: {port: a-b}"), []string{`x.yml:5: labels.port "a-b" is not a label name: use letters, digits and _, with no digit first`}},
		{
			"contradictory labels", policy("labels: {service: s, port: p}"),
			[]string{"x.yml:2: labels.service excludes labels.destination and labels.port: remove one or the other"},
		},
		{"allow", "policies: [{name: a, match: [a=\"b\"], allow: [10.0.0.1/8, 10.0.0.256, 0.0.0.0, 'ff02::1', 'fe80::1%eth0', 'a b']}]\n", []string{
			`x.yml:1: allow: "10.0.0.1/8" is a prefix with bits set after its length: write 10.0.0.0/8, or 10.0.0.1 for a single address`,
			`x.yml:1: allow: "10.0.0.256" is not an address, a prefix or a name: write one such as 10.20.0.0/16, 2001:db8::5 or db.internal`,
			`x.yml:1: allow: "0.0.0.0" is the unspecified address, not a TCP destination: write a prefix to match many addresses`,
			`x.yml:1: allow: "ff02::1" is multicast, not a TCP destination: write a unicast address or prefix`,
			`x.yml:1: allow: "fe80::1%eth0" has a zone: write fe80::1, which means this address on every interface`, `x.yml:1: allow: "a b" is not an address`,
		}},
		{"never", "never: [db.internal, '10.0.0.1:0', '10.0.0.1:http', '10.0.0.1/8:53', '2001:db8::/32:53', '0.0.0.0:53', '[ff02::1]:53']\n", []string{
			`x.yml:1: never: "db.internal" is not an address or prefix with or without a port: write one such as 10.0.0.10:53, 10.0.0.0/24 or [2001:db8::/32]:53`,
			`x.yml:1: never: "10.0.0.1:0" has no port from 1 to 65535 after the last colon`,
			`x.yml:1: never: "10.0.0.1:http" has no port`,
			`x.yml:1: never: "10.0.0.1/8:53" is a prefix with bits set after its length: write 10.0.0.0/8`,
			`x.yml:1: never: "2001:db8::/32:53" is not an address or prefix with or without a port`,
			`x.yml:1: never: "0.0.0.0:53" is the unspecified address`,
			`x.yml:1: never: "[ff02::1]:53" is multicast`,
		}},
		{"services", "services:\n- {name: 10.0.0.1, port: 80}\n- {name: a.b}\n- {name: A.b, port: 0, settle: 0s, interval: 0s}\n- x\n", []string{
			`x.yml:2: name "10.0.0.1" is not a host name: write one that DNS resolves, such as db.internal`,
			`x.yml:3: missing key "port" in a service`,
			"x.yml:4: port must be a whole number from 1 to 65535",
			"x.yml:4: settle must be a duration such as 500ms, 30s, 5m or 1h, and at least 1s",
			"x.yml:4: interval must be a duration such as 500ms, 30s, 5m or 1h, and at least 1s",
			`x.yml:4: duplicate service name "a.b"`,
			"x.yml:5: a service must be a mapping with the keys interval, name, port, resolver, settle",
		}},
		{"resolvers", "services:\n- {name: a.b, port: 1, resolver: kube-dns}\n- {name: c.d, port: 1, resolver: 10.0.0.0/8}\n" +
			"- {name: e.f, port: 1, resolver: 10.0.0.1:dns}\n- {name: g.h, port: 1, resolver: [fd00::10]}\n- {name: i.j, port: 1, resolver: 'fe80::1'}\n" +
			"- {name: k.l, port: 1, resolver: 0.0.0.0}\n- {name: m.n, port: 1, resolver: {a: b}}\n- {name: o.p, port: 1, resolver: ''}\n- {name: q.r, port: 1, resolver: 53}\n", []string{
			`x.yml:2: resolver "kube-dns" is not the address of a name server: write one such as 10.96.0.10, 10.96.0.10:5353 or "[fd00::10]:53"`,
			`x.yml:3: resolver "10.0.0.0/8" is not the address of a name server`,
			`x.yml:4: resolver "10.0.0.1:dns" is not the address of a name server`,
			"x.yml:5: resolver must be a non-empty string: write it in quotes",
			`x.yml:6: resolver "fe80::1" is not the address of a name server`,
			`x.yml:7: resolver "0.0.0.0" is not the address of a name server`,
			"x.yml:8: resolver must be a non-empty string: write it in quotes",
			"x.yml:9: resolver must be a non-empty string: write it in quotes",
			"x.yml:10: resolver must be a non-empty string: write it in quotes",
		}},
		{"a name with two resolvers", "services:\n- {name: a.b, port: 1, resolver: 10.96.0.10}\n- {name: a.b, port: 1}\n", []string{
			`x.yml:3: duplicate service name "a.b"`,
		}},
		{"defaults with namespaces", "defaults:\n  namespaces: [shop]\n  token_file: /x\n", []string{
			`x.yml:2: unknown key "namespaces" in defaults`, `x.yml:3: unknown key "token_file" in defaults`,
		}},
		{"defaults with a name", "defaults:\n  name: a\n", []string{`x.yml:2: unknown key "name" in defaults: the known keys are ` +
			"drain, evidence, labels, limits, linger, method, mptcp, receive_wait, shadow, sigpipe_safe"}},
	}
}

// Each mistake is reported with its line and a hint.
func TestConfigMistakes(t *testing.T) {
	for _, tt := range configMistakes() {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("x.yml", []byte(tt.content))
			if err == nil {
				t.Fatalf("accepted as %+v", c)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("%d mistakes found, want %d:\n%v", len(lines), len(tt.want), err)
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("mistake %d:\n got %s\nwant %s", i, lines[i], want)
				}
			}
		})
	}
}

func TestLoadConfigFile(t *testing.T) {
	large := filepath.Join(t.TempDir(), "large.yml")
	if err := os.WriteFile(large, []byte(strings.Repeat("#", maxSize+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open.yml")
	if err := errors.Join(os.WriteFile(open, nil, 0o600), os.Chmod(open, 0o666)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"missing.yml": "no such file", t.TempDir(): "is a directory", large: "larger than 1048576 bytes",
		open: "world-writable (mode 0666); run chmod o-w " + open,
	} {
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", path, err, want)
		}
	}
}
