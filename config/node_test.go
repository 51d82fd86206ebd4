package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tcphup/services"
)

// The example of a policy for node mode is a comment of the example file.
func TestExampleOfNode(t *testing.T) {
	path := filepath.Join("..", "deploy", "tcphup.example.yml")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(content), "  # - name: shop\n")
	example, _, _ = strings.Cut("  # - name: shop\n"+example, "\n\n")
	c, err := Parse(path, []byte(strings.ReplaceAll("policies:\n"+example+"\n", "\n  # ", "\n  ")))
	if err != nil {
		t.Fatal(err)
	}
	if p := c.Rules.Policies[0]; !slices.Equal(p.Namespaces, []string{"shop", "shop-staging"}) || p.TokenFile != "/etc/tcphup/shop.token" {
		t.Errorf("got %+v", p)
	}
}

// Namespaces and tokens are those of one policy. The embedded policies have no namespaces.
func TestConfigOfNode(t *testing.T) {
	c, err := Parse("x.yml", []byte(`
policies:
  - {name: a, match: [a="b"], allow: ['::1'], namespaces: [shop, shop-2], token_file: /etc/tcphup/shop.token}
  - {name: b, match: [a="b"], allow: ['::1'], namespaces: [bank]}
services: [{name: a.b, port: 1}]
`))
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Rules.Policies[0], c.Rules.Policies[1]
	if !c.ForNode() {
		t.Error("not for node mode")
	}
	if !slices.Equal(a.Namespaces, []string{"shop", "shop-2"}) || a.TokenFile != "/etc/tcphup/shop.token" {
		t.Errorf("a is %+v", a)
	}
	if !slices.Equal(b.Namespaces, []string{"bank"}) || b.TokenFile != "" {
		t.Errorf("b is %+v", b)
	}
	c, err = Parse("x.yml", []byte("policies: [{name: a, match: ['a=b'], allow: ['::1']}]"))
	if err != nil || c.ForNode() || c.Rules.Policies[0].Namespaces != nil {
		t.Errorf("without namespaces: %+v, %v", c.Rules.Policies, err)
	}
	c = Default()
	if c.ForNode() {
		t.Error("the default is for node mode only")
	}
	if err := c.AddServices([]services.Service{{Name: "db.internal", Port: 5432}}); err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Rules.Policies {
		if p.Namespaces == nil || len(p.Namespaces) != 0 || p.TokenFile != "" {
			t.Errorf("embedded policy %s: %+v", p.Name, p)
		}
	}
}
