package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
)

// The examples are what they say they are: one for every Alertmanager, one with a
// template that turns what Prometheus scraped into where to send the alert. (An
// Alertmanager that has templates in URLs reads the latter in TestPrivilegedFanOut.)
func TestAlertmanagerExamples(t *testing.T) {
	amtool := need(t, "amtool", "prometheus-alertmanager")
	deploy := filepath.Join("..", "deploy")
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
			t.Errorf("instance %s: the receiver is %q, want %q", tt.instance, r.stdout, tt.want)
		}
	}
}
