package alerts

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/alertmanager/pkg/labels"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

func mustMatch(t testing.TB, matchers ...string) labels.Matchers {
	t.Helper()
	var all labels.Matchers
	for _, text := range matchers {
		parsed, err := ParseMatchers(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parsed...)
	}
	return all
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// fakeNames maps a name to its current and former addresses.
type fakeNames map[string][2][]string

func (n fakeNames) Addresses(name string) (current, former []netip.Addr) {
	parse := func(texts []string) (all []netip.Addr) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	return parse(n[name][0]), parse(n[name][1])
}

// Stale reports whether the flow leads to a former address of the name that no other name
// has.
func (n fakeNames) Stale(name string, f *sockdiag.Flow) bool {
	for other := range n {
		if current, _ := n.Addresses(other); slices.Contains(current, f.Remote.Addr()) {
			return false
		}
	}
	_, former := n.Addresses(name)
	return slices.Contains(former, f.Remote.Addr())
}

// Other reports whether the flow has local port 1, the flows of another service in tests.
func (n fakeNames) Other(_ string, f *sockdiag.Flow) bool {
	return f.Local.Port() == 1
}

func testRules(t testing.TB) Rules {
	database := Policy{
		Name:  "database",
		Match: mustMatch(t, `alertname="Stale"`, `team=~"pay.*",env!="test"`),
		Allow: Allow{Prefixes: prefixes("10.20.0.0/16", "2001:db8:20::/48"), Names: []string{"db.internal"}},
		Ports: []uint16{5432, 6432},
	}
	fleet := Policy{
		Name:   "fleet",
		Match:  mustMatch(t, `alertname=~"Stale|Former"`),
		Allow:  Allow{Prefixes: prefixes("192.0.2.0/24")},
		Labels: LabelNames{Destination: "peer", Port: "peer_port"},
	}
	service := Policy{
		Name:   "service",
		Match:  mustMatch(t, `alertname="FormerAddress"`),
		Allow:  Allow{Names: []string{"db.internal"}},
		Ports:  []uint16{80, 443, 5432},
		Labels: LabelNames{Service: "service"},
	}
	return Rules{
		Policies: []Policy{database, fleet, service},
		Never:    []Endpoint{{netip.MustParsePrefix("10.20.9.0/24"), 0}, {netip.MustParsePrefix("10.20.8.8/32"), 5432}, {netip.MustParsePrefix("192.0.2.53/32"), 53}},
		Services: []Service{{"db.internal", 5432}, {"quiet.internal", 80}, {"web.internal", 443}, {"cache.internal", 11211}},
	}
}

func TestPolicies(t *testing.T) {
	names := fakeNames{
		"db.internal":    {{"10.99.0.1", "::ffff:10.99.0.2"}, {"10.99.0.7", "2001:db8:99::7", "::ffff:10.99.0.1"}},
		"web.internal":   {{"10.99.1.1"}, {"10.99.1.7"}},
		"quiet.internal": {{"10.99.2.1"}, nil},
	}
	alert := func(labels ...string) testAlert {
		a := testAlert{Labels: map[string]string{"alertname": "Stale"}}
		for i := 0; i < len(labels); i += 2 {
			a.Labels[labels[i]] = labels[i+1]
		}
		return a
	}
	pay := func(destination, port string) testAlert {
		return alert("team", "payments", "destination", destination, "port", port)
	}
	tests := []struct {
		name   string
		alert  testAlert
		result string
		hung   string
	}{
		{"inside", pay("10.20.3.4", "5432"), resultDone, "database 10.20.3.4/32 5432"},
		{"every allowed port", pay("10.20.3.4", ""), resultDone, "database 10.20.3.4/32 5432 6432"},
		{"prefix inside", pay("10.20.3.0/24", "5432"), resultDone, "database 10.20.3.0/24 5432"},
		{"all that is allowed", pay("10.20.0.0/16", "5432"), resultDone, "database 10.20.0.0/16 5432"},
		{"mapped prefix", pay("::ffff:10.20.3.0/120", "5432"), resultDone, "database 10.20.3.0/24 5432"},
		{"IPv6 prefix", pay("2001:DB8:20:1::/64", "5432"), resultDone, "database 2001:db8:20:1::/64 5432"},
		{"wider", pay("10.20.0.0/15", "5432"), resultNotAllowed, ""},
		{"much wider", pay("10.0.0.0/8", "5432"), resultNotAllowed, ""},
		{"wider IPv6", pay("2001:db8::/32", "5432"), resultNotAllowed, ""},
		{"IPv4 in an IPv6 prefix", pay("2001:db8:20::a14:304/128", "5432"), resultDone, "database 2001:db8:20::a14:304/128 5432"},
		{"outside", pay("10.21.0.1", "5432"), resultNotAllowed, ""},
		{"port outside", pay("10.20.3.4", "80"), resultNotAllowed, ""},
		{"current address of a name", pay("10.99.0.1", "5432"), resultDone, "database 10.99.0.1/32 5432"},
		{"mapped address of a name", pay("10.99.0.2", "5432"), resultDone, "database 10.99.0.2/32 5432"},
		{"former address of a name", pay("2001:db8:99::7", "5432"), resultDone, "database 2001:db8:99::7/128 5432"},
		{"address of another name", pay("10.99.1.1", "5432"), resultNotAllowed, ""},
		{"prefix around a name", pay("10.99.0.0/24", "5432"), resultNotAllowed, ""},
		{"the name itself", pay("db.internal", "5432"), resultBadDestination, ""},
		{"never", pay("10.20.9.1", "5432"), resultDenied, ""},
		{"never as a prefix", pay("10.20.9.0/25", "5432"), resultDenied, ""},
		{"never within a prefix", pay("10.20.8.0/23", "5432"), resultDone, "database 10.20.8.0/23 5432"},
		{"never at this port", pay("10.20.8.8", "5432"), resultDenied, ""},
		{"never at another port", pay("10.20.8.8", "6432"), resultDone, "database 10.20.8.8/32 6432"},
		{"never at one of the ports", pay("10.20.8.8", ""), resultDone, "database 10.20.8.8/32 5432 6432"},
		{"never at one of all ports", alert("peer", "192.0.2.53"), resultDone, "fleet 192.0.2.53/32"},
		{"first match decides", pay("192.0.2.1", "5432"), resultNotAllowed, ""},
		{"second policy", alert("peer", "192.0.2.1", "peer_port", "99"), resultDone, "fleet 192.0.2.1/32 99"},
		{"default labels are ignored", alert("destination", "192.0.2.1"), resultNoDestination, ""},
		{
			"negative matcher", alert("team", "payments", "env", "test", "peer", "192.0.2.1"),
			resultDone, "fleet 192.0.2.1/32",
		},
		{"regexp is anchored", alert("team", "repay", "peer", "192.0.2.1"), resultDone, "fleet 192.0.2.1/32"},
		{
			"service", alert("alertname", "FormerAddress", "service", "db.internal"),
			resultDone, "service 10.99.0.7/32 2001:db8:99::7/128 5432",
		},
		{
			"service overrides other labels", alert("alertname", "FormerAddress", "service", "db.internal", "destination", "10.0.0.1", "port", "1"),
			resultDone, "service 10.99.0.7/32 2001:db8:99::7/128 5432",
		},
		{"service with nothing left", alert("alertname", "FormerAddress", "service", "quiet.internal"), resultDone, ""},
		{"service not allowed", alert("alertname", "FormerAddress", "service", "web.internal"), resultNotAllowed, ""},
		{"port of a service not allowed", alert("alertname", "FormerAddress", "service", "cache.internal"), resultNotAllowed, ""},
		{"unknown service", alert("alertname", "FormerAddress", "service", "x.internal"), resultBadDestination, ""},
		{"no service", alert("alertname", "FormerAddress", "destination", "10.99.0.7"), resultNoDestination, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, testRules(t), func(c *Config) { c.Names = names })
			f.post(t, notify(tt.alert)).want(t, 200, map[string]int{tt.result: 1})
			want := []string{}
			if tt.hung != "" {
				want = append(want, tt.hung)
			}
			if diff := cmp.Diff(want, f.hang.seen()); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
		})
	}
}

// A policy matches labels with UTF-8 names.
func TestUTF8Labels(t *testing.T) {
	p := Labelled()
	p.Match = mustMatch(t, `"service.name"="db", größe!="ü"`)
	f := newFixture(t, Rules{Policies: []Policy{p}}, nil)
	a, b, c := staleAlert("10.0.0.5", "80"), staleAlert("10.0.0.6", "80"), staleAlert("10.0.0.7", "80")
	a.Labels["service.name"], b.Labels["service.name"], c.Labels["service.name"] = "db", "web", "db"
	c.Labels["größe"] = "ü"
	f.post(t, notify(a, b, c)).want(t, 200, map[string]int{resultDone: 1, resultUnmatched: 2})
}

// Every field of a policy is in the request.
func TestActionHasAllOfPolicy(t *testing.T) {
	starts := testNow.Add(-time.Minute)
	p := Policy{
		Name:     "full",
		Match:    mustMatch(t, `tcphup="hangup"`),
		Allow:    Allow{Prefixes: prefixes("10.0.0.0/8")},
		Ports:    []uint16{80, 81},
		Evidence: Evidence{Idle: 30 * time.Second, PeerSilence: time.Minute, Stalled: true, EstablishedBeforeAlert: true},
		Method:   hangup.Shutdown,
		MPTCP:    hangup.Path,
		Limits:   Limits{Flows: 7, Fraction: 0.5, Rate: 9},
		Drain:    Drain{Quiet: time.Second, Deadline: 20 * time.Second, Answer: 8 * time.Second},
		Linger:   4 * time.Second,

		ReceiveWait: 3 * time.Second,

		SIGPIPESafe: []string{"psql"},
	}
	never := []Endpoint{{netip.MustParsePrefix("10.0.0.10/32"), 53}, {netip.MustParsePrefix("10.0.1.0/24"), 0}}
	want := hangup.Request{
		Policy: "full",
		Selector: sockdiag.Selector{
			Destinations: prefixes("10.0.0.5/32"), Ports: sockdiag.Ports(80), Direction: sockdiag.Outbound,
			MinIdle: 30 * time.Second, MinPeerSilence: time.Minute, Stalled: true,
		},
		EstablishedBefore: starts,
		Method:            hangup.Shutdown, MPTCP: hangup.Path,
		SIGPIPESafe: []string{"psql"},
		MaxFlows:    7, MaxFraction: 0.5, Rate: 9,
		DrainQuiet: time.Second, DrainDeadline: 20 * time.Second, DrainAnswer: 8 * time.Second, ReceiveWait: 3 * time.Second, Linger: 4 * time.Second,
		Never: []sockdiag.Selector{
			{Destinations: prefixes("10.0.0.10/32"), Ports: sockdiag.Ports(53)},
			{Destinations: prefixes("10.0.1.0/24")},
		},
		WatchReconnect: 5 * time.Second,
	}
	f := newFixture(t, Rules{Policies: []Policy{p}, Never: never}, func(c *Config) { c.WatchReconnect = 5 * time.Second })
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
	compare := cmp.Options{
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.IgnoreFields(hangup.Request{}, "Begin", "Done", "Reconnected"),
	}
	if diff := cmp.Diff([]hangup.Request{want}, f.hang.actions, compare); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	// If startsAt is in the future by clock skew, the limit is now.
	f = newFixture(t, Rules{Policies: []Policy{p}}, nil)
	ahead := staleAlert("10.0.0.5", "80")
	ahead.StartsAt = testNow.Add(10 * time.Second).Format(time.RFC3339)
	f.post(t, notify(ahead)).want(t, 200, map[string]int{resultDone: 1})
	if got := f.hang.actions[0].EstablishedBefore; !got.Equal(testNow) {
		t.Errorf("established before %s, want %s", got, testNow)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Rules, *Policy)
		want   string // part of the error; empty: valid
	}{
		{"unchanged", func(*Rules, *Policy) {}, ""},
		{"no name", func(_ *Rules, p *Policy) { p.Name = "" }, "name is missing"},
		{"name twice", func(r *Rules, p *Policy) { r.Policies = append(r.Policies, *p) }, "duplicate name"},
		{"no match", func(_ *Rules, p *Policy) { p.Match = nil }, "match needs"},
		{"matches everything", func(_ *Rules, p *Policy) { p.Match = mustMatch(t, `a!="b"`, `c=~".*"`) }, "match needs"},
		{"no allow", func(_ *Rules, p *Policy) { p.Allow = Allow{} }, "allow is missing"},
		{"host bits", func(_ *Rules, p *Policy) { p.Allow.Prefixes = prefixes("10.0.0.1/8") }, "write 10.0.0.0/8"},
		{"mapped", func(_ *Rules, p *Policy) { p.Allow.Prefixes = prefixes("::ffff:10.0.0.0/104") }, "write 10.0.0.0/8"},
		{"unspecified", func(_ *Rules, p *Policy) { p.Allow.Prefixes = prefixes("0.0.0.0/32") }, "unspecified"},
		{"multicast", func(r *Rules, _ *Policy) { r.Never = []Endpoint{{Prefix: prefixes("224.0.0.0/4")[0]}} }, "never: \"224.0.0.0/4\" is multicast"},
		{"no prefix", func(_ *Rules, p *Policy) { p.Allow.Prefixes = []netip.Prefix{{}} }, "not a prefix"},
		{"port 0", func(_ *Rules, p *Policy) { p.Ports = []uint16{0} }, "from 1 to 65535"},
		{"method", func(_ *Rules, p *Policy) { p.Method = "kill" }, "method must be"},
		{"mptcp", func(_ *Rules, p *Policy) { p.MPTCP = "all" }, "mptcp must be"},
		{"flows", func(_ *Rules, p *Policy) { p.Limits.Flows = -1 }, "negative"},
		{"fraction", func(_ *Rules, p *Policy) { p.Limits.Fraction = 1.1 }, "fraction"},
		{"window", func(_ *Rules, p *Policy) { p.Limits.Breaker.Window = 0 }, "window"},
		{"linger", func(_ *Rules, p *Policy) { p.Linger = -1 }, "durations"},
		{"never", func(r *Rules, _ *Policy) { r.Never = []Endpoint{{}} }, "never: not a prefix"},
		{"service without port", func(r *Rules, _ *Policy) { r.Services = []Service{{Name: "x"}} }, `service "x"`},
		{"service twice", func(r *Rules, _ *Policy) { r.Services = []Service{{"x", 1}, {"x", 2}} }, `service "x"`},
		{"names without resolver", func(_ *Rules, p *Policy) { p.Allow.Names = []string{"x"} }, "needs a resolver"},
		{"service without resolver", func(_ *Rules, p *Policy) { p.Labels.Service = "x" }, "needs a resolver"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules := DefaultRules()
			tt.change(&rules, &rules.Policies[0])
			_, err := NewReceiver(Config{}, rules, new(fakeHangUpper), nil)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
