package e2e

import "testing"

// The alerts that are shipped fire when they should and carry the labels that
// policies need.
func TestRules(t *testing.T) {
	promtool := need(t, "promtool", "prometheus")
	r := runProgram(t, nil, promtool, "test", "rules", "../deploy/rules_test.yml")
	if r.exit != 0 {
		t.Errorf("promtool: exit code %d\n%s%s", r.exit, r.stdout, r.stderr)
	}
}
