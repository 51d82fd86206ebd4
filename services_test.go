package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/config"
	"tcphup/endpoints"
)

func TestServiceFlag(t *testing.T) {
	if err := new(services).Set("db.internal"); err == nil {
		t.Error("a service without a port was taken")
	}
}

func TestAddServices(t *testing.T) {
	c, err := config.Parse("x.yml", []byte(`
policies:
  - {name: a, match: ['a="b"'], allow: [web.internal, db.internal]}
services: [{name: db.internal, port: 5432, settle: 2m}]
`))
	if err != nil {
		t.Fatal(err)
	}
	var flags services
	if err := flags.Set("Mail.internal:25"); err != nil {
		t.Fatal(err)
	}
	if err := c.AddServices(flags); err != nil {
		t.Fatal(err)
	}
	want := []endpoints.Service{
		{Name: "db.internal", Port: 5432, Settle: 2 * time.Minute},
		{Name: "mail.internal", Port: 25, Settle: time.Minute},
		{Name: "web.internal"},
	}
	if diff := cmp.Diff(want, watched(&c)); diff != "" {
		t.Errorf("watched (-want +got):\n%s", diff)
	}
	if err := c.Rules.Validate(); err != nil || len(c.Rules.Services) != 2 || len(c.Rules.Policies) != 1 {
		t.Errorf("rules: %v, %+v", err, c.Rules)
	}
	if err := c.AddServices(flags); err == nil || !strings.Contains(err.Error(), "mail.internal") {
		t.Errorf("a service twice: %v", err)
	}
}
