package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/alerts"
	"tcphup/services"
)

// The port of a resolver is 53 by default. A name that a policy allows has the resolver of
// the service of that name.
func TestResolvers(t *testing.T) {
	for value, want := range map[string]string{
		"10.96.0.10": "10.96.0.10:53", "10.96.0.10:5353": "10.96.0.10:5353", "fd00::10": "[fd00::10]:53",
		`"[fd00::10]:5353"`: "[fd00::10]:5353", `"::ffff:10.96.0.10"`: "10.96.0.10:53",
	} {
		c, err := Parse("x.yml", []byte(`
services: [{name: db.internal, port: 5432, resolver: `+value+`}, {name: web.internal, port: 80}]
policies: [{name: a, match: [a="b"], allow: [db.internal, cache.internal]}]
`))
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		var got []string
		for _, s := range c.Watched() {
			got = append(got, s.Name+" "+s.Resolver.String())
		}
		if diff := cmp.Diff([]string{"db.internal " + want, "web.internal invalid AddrPort", "cache.internal invalid AddrPort"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", value, diff)
		}
	}
}

// The embedded policy for services comes before the embedded policy.
func TestStalePolicy(t *testing.T) {
	c := Default()
	if err := c.AddServices(nil); err != nil || len(c.Rules.Policies) != 1 {
		t.Fatalf("without services: %v, %+v", err, c.Rules.Policies)
	}
	if err := c.AddServices([]services.Service{{Name: "db.internal", Port: 5432}, {Name: "web.internal", Port: 80}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Rules.Validate(); err != nil {
		t.Fatal(err)
	}
	if len(c.Rules.Policies) != 2 || c.Rules.Policies[1].Name != alerts.LabelledName {
		t.Fatalf("policies: %+v", c.Rules.Policies)
	}
	p := c.Rules.Policies[0]
	for _, tt := range []struct {
		labels map[string]string
		want   bool
	}{
		{map[string]string{"tcphup": "hangup", "service": "db.internal"}, true},
		{map[string]string{"tcphup": "hangup", "service": "web.internal"}, true},
		{map[string]string{"tcphup": "hangup", "service": "dbxinternal"}, false},
		{map[string]string{"tcphup": "hangup", "service": "db.internal.evil"}, false},
		{map[string]string{"tcphup": "hangup", "destination": "10.0.0.1"}, false},
		{map[string]string{"service": "db.internal"}, false},
	} {
		got := true
		for _, m := range p.Match {
			got = got && m.Matches(tt.labels[m.Name])
		}
		if got != tt.want {
			t.Errorf("%v: %t", tt.labels, got)
		}
	}
}
