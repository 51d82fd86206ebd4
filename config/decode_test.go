package config

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Values at the bounds of the schema are valid, values beyond are rejected.
func TestSchemaBounds(t *testing.T) {
	for key, values := range map[string][2][]string{
		"limits.flows":                {{"1", "1000000"}, {"0", "1000001", "1.5", "'1'", "1e3", "0x10", "~", "[1]"}},
		"limits.fraction":             {{"0.001", "1"}, {"0", "1.001", "-0.5", ".inf", "x", "{}"}},
		"limits.rate":                 {{"0.1", "10000"}, {"0", "10001", "~"}},
		"limits.cooldown":             {{"0s", "1d"}, {"-1s", "1", "x", "~"}},
		"limits.max_alert_age":        {{"1s"}, {"999ms"}},
		"limits.breaker.actions":      {{"1", "1000000"}, {"0", "1000001"}},
		"limits.breaker.destinations": {{"1", "1000000"}, {"0", "1000001"}},
		"limits.breaker.window":       {{"1s"}, {"999ms"}},
		"linger":                      {{"100ms"}, {"99ms", "1.5s", "[1s]"}},
		"evidence.idle":               {{"0s"}, {"-1s"}},
		"evidence.peer_silence":       {{"0s"}, {"-1s"}},
		"evidence.stalled":            {{"true", "FALSE"}, {"yes", "'true'", "1", "!!bool yes", "~"}},
		"shadow":                      {{"true", "false"}, {"!!bool on", "~", "[true]"}},
		"method":                      {{"auto", "shutdown", "destroy"}, {"''", "Auto", "'auto, shutdown'", "[auto]", "~"}},
		"sigpipe_safe":                {{"[psql]", "[a, 0123456789abcde]", "[]"}, {"psql", "~", "{}"}},
		"mptcp":                       {{"connection", "path"}, {"both"}},
		"labels.destination":          {{"a", "_1"}, {"1a", "''", "a-b", "1", "~", "[a]"}},
	} {
		t.Run(key, func(t *testing.T) {
			content := func(value string) []byte {
				return []byte("defaults: {" + strings.ReplaceAll(key, ".", ": {") + ": " + value + strings.Repeat("}", 1+strings.Count(key, ".")) + "\n")
			}
			for _, value := range values[0] {
				if _, err := Parse("x.yml", content(value)); err != nil {
					t.Errorf("%s: %v", value, err)
				}
			}
			for _, value := range values[1] {
				_, err := Parse("x.yml", content(value))
				if err == nil || !strings.HasPrefix(err.Error(), "x.yml:1: "+key+" ") || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: got %v, want one error about %s", value, err, key)
				}
			}
		})
	}
}

// Mistakes name keys, not Go types or fields.
func TestMistakesNameKeys(t *testing.T) {
	for _, value := range []string{"1", "~", "x", "[]", "[x]", "[[x]]", "{}", "{x: y}", "!!binary eA==", "2001-12-14", "!x y"} {
		for _, key := range []string{"defaults", "policies", "never", "services"} {
			content := key + ": " + value + "\n"
			_, err := Parse("x.yml", []byte(content))
			for _, word := range []string{"config.", "yaml.", "reflect", "time.Duration", "uint16", "unmarshal", "!!"} {
				if err != nil && strings.Contains(err.Error(), word) {
					t.Errorf("%s names %s: %v", content, word, err)
				}
			}
		}
	}
}

func TestSuggest(t *testing.T) {
	tests := map[string]string{
		"polices": `did you mean "policies"?`, "nevr": `did you mean "never"?`, "Never": `did you mean "never"?`,
		"": "the known keys are defaults, never, policies, services", "neverever": "the known keys are ",
	}
	for wrong, want := range tests {
		_, err := Parse("x.yml", []byte("'"+wrong+"': []\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", wrong, err, want)
		}
	}
}

// Mistakes are in the order of the file, not of the schema.
func TestMistakesByLine(t *testing.T) {
	d := new(decoder)
	for _, line := range []int{3, 1, 2, 1} {
		d.fail(&yaml.Node{Line: line}, "%s", strings.Repeat("x", len(d.mistakes)+1))
	}
	want := "x.yml:1: xx\nx.yml:1: xxxx\nx.yml:2: xxx\nx.yml:3: x"
	if got := d.err("x.yml").Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A mistake in the defaults is reported once, not per policy.
func TestMistakeInDefaults(t *testing.T) {
	for _, defaults := range []string{"method: kill", "mptcp: all", "limits: {breaker: {window: 1}}", "limits: {fraction: 2}", "linger: x"} {
		content := "defaults: {" + defaults + "}\npolicies:\n- {name: a, match: [a=\"b\"], allow: [c]}\n- {name: b, match: [a=\"b\"], allow: [c]}\n"
		if _, err := Parse("x.yml", []byte(content)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one error", defaults, err)
		}
	}
}
