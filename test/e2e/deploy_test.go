package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestAlertmanagerExamples checks the example without templates, and the template that
// derives the receiver's URL from the label instance. TestPrivilegedFanOut loads the
// example with templates.
func TestAlertmanagerExamples(t *testing.T) {
	amtool := need(t, "amtool", "prometheus-alertmanager")
	deploy := filepath.Join("..", "..", "deploy")
	runProgram(t, nil, amtool, "check-config", filepath.Join(deploy, "alertmanager-plain.example.yml")).mustExit(t, 0)

	for _, tt := range []struct{ instance, want string }{
		{"10.0.0.11:10471", "http://10.0.0.11:10472/alerts"},
		{"10.0.0.11", "http://10.0.0.11:10472/alerts"},
		{"[2001:db8::1]:10471", "http://[2001:db8::1]:10472/alerts"},
		{"payments-0.payments.svc:10471", "http://payments-0.payments.svc:10472/alerts"},
	} {
		data := writeFile(t, "data.json", fmt.Sprintf(`{"commonLabels": {"instance": %q}}`, tt.instance))
		r := runProgram(t, nil, amtool, "template", "render", "--template.glob="+filepath.Join(deploy, "alertmanager.tmpl"),
			`--template.text={{ template "tcphup.url" . }}`, "--template.data="+data)
		r.mustExit(t, 0)
		if r.stdout != tt.want {
			t.Errorf("instance %s: receiver %q, want %q", tt.instance, r.stdout, tt.want)
		}
	}
}

// TestPrometheusExample checks the configuration of Prometheus with the rules.
func TestPrometheusExample(t *testing.T) {
	promtool := need(t, "promtool", "prometheus")
	runProgram(t, nil, promtool, "check", "config", filepath.Join("..", "..", "deploy", "prometheus.example.yml")).mustExit(t, 0)
}

// TestRules runs the rules' unit tests and checks that each alert has a test and a section
// in the runbook.
func TestRules(t *testing.T) {
	promtool := need(t, "promtool", "prometheus")
	rules := filepath.Join("..", "..", "deploy", "rules.yml")
	runProgram(t, nil, promtool, "check", "rules", rules).mustExit(t, 0)
	runProgram(t, nil, promtool, "test", "rules", filepath.Join("..", "..", "deploy", "rules_test.yml")).mustExit(t, 0)

	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile(filepath.Join("..", "..", "docs", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(filepath.Join("..", "..", "deploy", "rules_test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	alerts := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			alerts++
			// Alerts of one notification share a summary; the description is about one alert.
			if summary := r.Annotations["summary"]; !strings.HasSuffix(summary, ".") || strings.Contains(summary, "{{") {
				t.Errorf("%s: summary is %q, want a sentence without variables", r.Alert, summary)
			}
			if description := r.Annotations["description"]; !strings.Contains(description, "{{ $labels.instance }}") {
				t.Errorf("%s: description without the instance: %q", r.Alert, description)
			}
			if want := "docs/runbook.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
				t.Errorf("%s: runbook_url is %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
			}
			if !strings.Contains(string(runbook), "\n## "+r.Alert+"\n") {
				t.Errorf("%s has no section in the runbook", r.Alert)
			}
			if fires := regexp.MustCompile(`alertname: ` + r.Alert + `\n\s+exp_alerts:\n`); !fires.Match(tests) {
				t.Errorf("%s has no test in which it fires", r.Alert)
			}
		}
	}
	if sections := strings.Count(string(runbook), "\n## "); alerts == 0 || alerts != sections {
		t.Errorf("%d alerts, %d sections in the runbook", alerts, sections)
	}
}
