package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/alerts"
	"tcphup/services"
)

func TestParseService(t *testing.T) {
	for _, tt := range []struct {
		text, name string
		port       uint16
		says       string
	}{
		{text: "db.internal:5432", name: "db.internal", port: 5432},
		{text: "DB.internal", name: "db.internal"},
		{text: "_pg._tcp.db.internal:5432", name: "_pg._tcp.db.internal", port: 5432},
		{text: "db.internal:", says: "from 1 to 65535"},
		{text: "db.internal:0", says: "from 1 to 65535"},
		{text: "db.internal:65536", says: "from 1 to 65535"},
		{text: "a:b:1", says: "write NAME:PORT"},
		{text: "10.0.0.1:80", says: "not a host name"},
		{text: "", says: "not a host name"},
		{text: ":80", says: "not a host name"},
	} {
		name, port, err := parseService(tt.text)
		if tt.says != "" {
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q: %v, want %q", tt.text, err, tt.says)
			}
			continue
		}
		if err != nil || name != tt.name || port != tt.port {
			t.Errorf("%q: %q %d %v", tt.text, name, port, err)
		}
	}
	if err := new(serviceFlags).Set("db.internal"); err == nil {
		t.Error("a service without a port was taken")
	}
}

func TestAddServices(t *testing.T) {
	c, err := parseConfig("x.yml", []byte(`
policies:
  - {name: a, match: ['a="b"'], allow: [web.internal, db.internal]}
services: [{name: db.internal, port: 5432, settle: 2m, interval: 5s}]
`))
	if err != nil {
		t.Fatal(err)
	}
	var flags serviceFlags
	if err := flags.Set("Mail.internal:25"); err != nil {
		t.Fatal(err)
	}
	if err := c.addServices(flags); err != nil {
		t.Fatal(err)
	}
	want := []services.Service{
		{Name: "db.internal", Port: 5432, Settle: 2 * time.Minute, Interval: 5 * time.Second},
		{Name: "mail.internal", Port: 25, Settle: time.Minute, Interval: 15 * time.Second},
		{Name: "web.internal"},
	}
	if diff := cmp.Diff(want, c.watched()); diff != "" {
		t.Errorf("watched (-want +got):\n%s", diff)
	}
	if err := c.Rules.Validate(); err != nil || len(c.Rules.Services) != 2 || len(c.Rules.Policies) != 1 {
		t.Errorf("rules: %v, %+v", err, c.Rules)
	}
	if err := c.addServices(flags); err == nil || !strings.Contains(err.Error(), "mail.internal") {
		t.Errorf("a service twice: %v", err)
	}
}

// Where no policy was written, one for the services joins the embedded one.
func TestStalePolicy(t *testing.T) {
	c := defaultConfig()
	if err := c.addServices(nil); err != nil || len(c.Rules.Policies) != 1 {
		t.Fatalf("without services: %v, %+v", err, c.Rules.Policies)
	}
	if err := c.addServices(serviceFlags{{Name: "db.internal", Port: 5432}, {Name: "web.internal", Port: 80}}); err != nil {
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
