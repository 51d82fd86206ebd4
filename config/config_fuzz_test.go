package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/alertmanager/pkg/labels"
	"go.yaml.in/yaml/v3"

	"tcphup/alerts"
)

var cmpMatcher = cmp.Comparer(func(a, b *labels.Matcher) bool { return a.String() == b.String() })

// plainConfig is the oracle: the configuration as yaml.v3 decodes it.
type plainConfig struct {
	Defaults plainPolicy
	Policies *[]plainPolicy
	Never    []string
	Services []struct {
		Name string
		Port any
	}
}

type plainPolicy struct {
	Name         string
	Match, Allow []string
	Ports        []any
	Shadow       *bool
	Evidence     struct {
		Stalled                *bool
		EstablishedBeforeAlert *bool `yaml:"established_before_alert"`
	}
}

// boolean returns the setting of a policy, or of the defaults if the policy has none.
func boolean(of, byDefault *bool) bool {
	if of == nil {
		of = byDefault
	}
	return of != nil && *of
}

// plainAllow returns the expected form of an entry of allow.
func plainAllow(text string) string {
	plain := strings.Trim(text, "[]")
	if addr, err := netip.ParseAddr(plain); err == nil {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()).String()
	}
	if prefix, err := netip.ParsePrefix(plain); err == nil {
		if prefix.Addr().Is4In6() {
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		return prefix.String()
	}
	return strings.ToLower(text)
}

// checkPolicy compares an accepted policy with the oracle.
func checkPolicy(t *testing.T, got *alerts.Policy, plain, defaults *plainPolicy) {
	t.Helper()
	if len(got.Allow.Prefixes)+len(got.Allow.Names) == 0 || got.Allow.AnyAddress {
		t.Errorf("policy %q may touch anything: %+v", got.Name, got.Allow)
	}
	var want, have []string
	for _, text := range plain.Allow {
		want = append(want, plainAllow(text))
	}
	for _, prefix := range got.Allow.Prefixes {
		have = append(have, prefix.String())
	}
	have = append(have, got.Allow.Names...)
	slices.Sort(want)
	slices.Sort(have)
	if diff := cmp.Diff(want, have); diff != "" || got.Name != plain.Name {
		t.Errorf("policy %q was read as %q, and its allow as (-want +got):\n%s", plain.Name, got.Name, diff)
	}
	if len(got.Match) < len(plain.Match) || len(got.Ports) != len(plain.Ports) {
		t.Errorf("policy %q: %v and %v were read as %v and %v", got.Name, plain.Match, plain.Ports, got.Match, got.Ports)
	}
	if got.Shadow != boolean(plain.Shadow, defaults.Shadow) ||
		got.Evidence.Stalled != boolean(plain.Evidence.Stalled, defaults.Evidence.Stalled) ||
		got.Evidence.EstablishedBeforeAlert != boolean(plain.Evidence.EstablishedBeforeAlert, defaults.Evidence.EstablishedBeforeAlert) {
		t.Errorf("policy %q: its switches were read as %+v", got.Name, got)
	}
}

var mistakeForm = regexp.MustCompile(`^x\.yml:(\d+): (.+)$`)

// checkMistakes checks the line number of every mistake. A comment before the first line
// must increase it by one.
func checkMistakes(t *testing.T, content []byte, err error) {
	t.Helper()
	mistakes := strings.Split(err.Error(), "\n")
	moved := make([]string, len(mistakes))
	// YAML 1.1 has six line breaks.
	lines := 1 + len(regexp.MustCompile(`\r\n|[\r\n\x{85}\x{2028}\x{2029}]`).FindAllIndex(content, -1))
	for i, mistake := range mistakes {
		parts := mistakeForm.FindStringSubmatch(mistake)
		if parts == nil {
			t.Fatalf("%q has no line number", mistake)
		}
		line, err := strconv.Atoi(parts[1])
		if err != nil || line < 1 || line > lines {
			t.Errorf("%q is not in one of %d lines", mistake, lines)
		}
		moved[i] = fmt.Sprintf("x.yml:%d: %s", line+1, parts[2])
	}
	if strings.Contains(err.Error(), "not YAML: ") || content[0] >= utf8.RuneSelf { // a byte order mark
		return
	}
	_, err = Parse("x.yml", append([]byte("#\n"), content...))
	if err == nil {
		t.Fatal("accepted after a comment")
	}
	if diff := cmp.Diff(moved, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("mistakes after a comment (-want +got):\n%s", diff)
	}
}

// FuzzConfig parses arbitrary files. A rejected file has mistakes with line numbers. An
// accepted file has the values that yaml.v3 decodes, and every policy restricts its destinations.
func FuzzConfig(f *testing.F) {
	content, err := os.ReadFile(filepath.Join("..", "deploy", "tcphup.example.yml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	for _, m := range configMistakes() {
		f.Add([]byte(m.content))
	}
	for _, text := range []string{
		"", "---\n", "policies: []\n",
		"a: &a [*a]\nnever: *a\n",
		"policies: &p\n- {name: a, match: [a=\"b\"], allow: ['::1'], labels: *p}\n",
		"never: ['[::1]:1', '10.0.0.0/8:9']\n",
		"services: [&never {name: a.b, port: 1}]\n*never : ['10.0.0.1']\n",
		"policies:\n- &shadow {name: a, match: [a=\"b\"], allow: [c]}\n",
		"defaults: {shadow: !!bool yes, evidence: {stalled: TRUE}}\npolicies: [{name: a, match: [a=\"b\"], allow: [c]}]\n",
		"policies: [{name: a, match: [a=\"b\"], allow: ['::ffff:10.0.0.0/104', '[::1]', '[::ffff:10.0.0.5]', 0.0.0.0/0]}]\n",
		"policies: [{name: a, match: ['a!=\"b\"'], allow: []}]\n",
		"policies: [{name: a, match: [\"a\\nb\"], allow: [\"c\\nd\"]}]\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := Parse("x.yml", content)
		again, againErr := Parse("x.yml", content)
		if diff := cmp.Diff(c, again, cmpPrefix, cmpAddrPort, cmpMatcher); diff != "" || (err == nil) != (againErr == nil) || err != nil && err.Error() != againErr.Error() {
			t.Fatalf("the second result differs: %v, %v\n%s", err, againErr, diff)
		}
		if err != nil {
			checkMistakes(t, content, err)
			return
		}

		if err := c.Rules.Validate(); err != nil {
			t.Errorf("accepted but invalid: %v", err)
		}
		var plain plainConfig
		if err := yaml.Unmarshal(content, &plain); err != nil {
			t.Fatalf("accepted, but yaml.v3 fails: %v", err)
		}
		if len(c.Rules.Never) != len(plain.Never) || len(c.Services) != len(plain.Services) || len(c.Rules.Services) != len(plain.Services) {
			t.Errorf("%+v was read as %+v", plain, c)
		}
		if plain.Policies == nil {
			if diff := cmp.Diff(alerts.DefaultRules().Policies, c.Rules.Policies, cmpPrefix, cmpMatcher); diff != "" {
				t.Errorf("policies without any in the file (-want +got):\n%s", diff)
			}
			return
		}
		if len(*plain.Policies) != len(c.Rules.Policies) {
			t.Fatalf("%d policies, want %d", len(c.Rules.Policies), len(*plain.Policies))
		}
		for i := range c.Rules.Policies {
			checkPolicy(t, &c.Rules.Policies[i], &(*plain.Policies)[i], &plain.Defaults)
		}
	})
}
