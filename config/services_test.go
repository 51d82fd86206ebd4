package config

import (
	"testing"

	"tcphup/alerts"
	"tcphup/services"
)

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
