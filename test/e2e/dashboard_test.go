package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// dashboard is the part of Grafana's dashboard model that has layout and queries.
type dashboard struct {
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct{ Name, Type string }
	}
	Annotations struct {
		List []struct {
			Name   string
			Target struct{ Expr string }
		}
	}
}

const (
	// staleRow is the first row of the dashboard.
	staleRow = "Stale by name"
	// nodeMetrics is the prefix of metrics that a node agent has. TestAgentChain of
	// test/kubernetes runs their queries.
	nodeMetrics = "tcphup_node_"
)

// TestPrivilegedDashboard checks that every query of the dashboard has data on a Prometheus
// that scraped a failover, with TCP and MPTCP sockets, hang-ups and reconnects. One
// Prometheus stores classic histograms, another one native histograms.
func TestPrivilegedDashboard(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		text, err := os.ReadFile("../../deploy/dashboard.json")
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		d.checkLayout(t)
		rules, err := os.ReadFile("../../deploy/rules.yml")
		if err != nil {
			t.Fatal(err)
		}
		servers := failover(t, string(rules))
		for name, p := range servers {
			t.Run(name, func(t *testing.T) {
				p.t = t
				d.mustHaveData(t, p, string(text))
				rulesMustWork(t, p, string(rules))
			})
		}
	})
}

// failover starts tcphup, and Prometheus with each form of histograms. A name then gets
// another address; its stale connection is hung up and opened again. So is one to each of a
// TCP and an MPTCP server.
func failover(t *testing.T, rules string) map[string]prometheus {
	t.Helper()
	binary := testapp.Build(t)
	dns := startNameServer(t)
	dns.set(serviceName + " " + oldAddress)
	service := testapp.Serve(t, testapp.ServerConfig{Address: oldAddress + ":0"})
	other := testapp.Serve(t, testapp.ServerConfig{Address: mustAddrPort(t, newAddress, service.Addr().Port()).String()})
	app := testapp.Start(t, binary)
	app.Call("ignore")
	app.Connect(service.Addr(), false, false)
	serveArmed(t, "--config.file="+writeFile(t, "tcphup.yml",
		fmt.Sprintf("services: [{name: %s, port: %d, settle: %s, interval: 1s}]\n", serviceName, service.Addr().Port(), failoverSettle)))
	becomes(t, socketsOf("current"), 1)

	target := prometheusConfig{rules: rules, targets: []string{tcphupAddress}, labels: "namespace: payments"}
	servers := map[string]prometheus{"classic": target.start(t)}
	if native := target; prometheus3(t) != "" {
		native.binary, native.address, native.job = prometheus3(t), "127.0.0.1:9390", nativeHistograms
		servers["native"] = native.start(t)
	}
	scraped := func(series string) {
		t.Helper()
		for _, p := range servers {
			p.mustHaveData("a scrape", series, isPositive)
		}
	}
	scraped(`tcphup_service_sockets{address="current"}`)

	dns.set(serviceName + " " + newAddress)
	becomes(t, socketsOf("former"), 1)
	scraped(`tcphup_service_sockets{address="former"}`)
	if answer := postStale(t); !strings.Contains(answer, `"closed":1`) {
		t.Fatal(answer)
	}
	app.Connect(other.Addr(), false, false)
	for _, mptcp := range []bool{false, true} {
		if mptcp && !nstest.HasMPTCP() {
			continue // MPTCP queries are skipped
		}
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: mptcp})
		app := testapp.Start(t, binary)
		app.Call("ignore")
		app.Connect(server.Addr(), false, mptcp)
		if answer, err := postAlert(t, server.Addr()); err != nil || !strings.Contains(answer, `"closed":1`) {
			t.Fatalf("%s, %v", answer, err)
		}
		app.Connect(server.Addr(), false, mptcp) // reconnect
	}
	return servers
}

// mustHaveData checks the queries of panels, annotations and variables.
func (d *dashboard) mustHaveData(t *testing.T, p prometheus, text string) {
	t.Helper()
	queries := 0
	hasData := func(what, expr string, matches func(point) bool) {
		t.Helper()
		queries++
		expr = strings.NewReplacer("$job", ".*", "$namespace", ".*", "$agents", ".*", "$instance", ".*", "$destination", ".*",
			"$__rate_interval", "5m", "$__range", "5m").Replace(expr)
		if strings.Contains(expr, "$") {
			t.Errorf("%s: unknown variable in %s", what, expr)
			return
		}
		if strings.Contains(expr, "tcphup_mptcp_") && !nstest.HasMPTCP() || strings.Contains(expr, nodeMetrics) {
			return
		}
		p.mustHaveData(what, expr, matches)
	}
	row := ""
	for _, panel := range d.Panels {
		if panel.Type == "row" {
			row = panel.Title
		}
		matches := isNumber
		if row == staleRow {
			matches = isPositive
		}
		for _, target := range panel.Targets {
			hasData(fmt.Sprintf("panel %d, %s", panel.ID, panel.Title), target.Expr, matches)
		}
	}
	for _, a := range d.Annotations.List {
		hasData("annotation "+a.Name, a.Target.Expr, isPositive)
	}
	// Variables query label values.
	for _, q := range regexp.MustCompile(`label_values\((.+?), (\w+)\)"`).FindAllStringSubmatch(text, -1) {
		series, open := strings.CutSuffix(strings.ReplaceAll(q[1], `\"`, `"`), "}")
		separator := "{"
		if open {
			separator = ", "
		}
		hasData("variable "+q[2], series+separator+q[2]+`!=""}`, isNumber)
	}
	if queries < 45 {
		t.Errorf("%d queries, want at least 45", queries)
	}
}

// rulesMustWork checks that each rule was evaluated and its metrics exist, which promtool
// does not check.
func rulesMustWork(t *testing.T, p prometheus, rules string) {
	t.Helper()
	nstest.Eventually(t, "all rules are evaluated", func() bool {
		page, err := get(t, p.url+"/api/v1/rules")
		return err == nil && strings.Count(page, `"health":"ok"`) == strings.Count(rules, "- alert: ")
	})
	for _, expr := range regexp.MustCompile(`tcphup_\w+(\{[^}]*\})?`).FindAllString(rules, -1) {
		switch {
		case strings.Contains(expr, "tcphup_mptcp_") && !nstest.HasMPTCP(), strings.Contains(expr, "tcphup_socket_idle_seconds"),
			strings.Contains(expr, nodeMetrics):
		default:
			p.mustHaveData("metric of a rule", expr, isNumber)
		}
	}
	// The alert about idle connections, after one second rather than two hours.
	idle := regexp.MustCompile(`(?s)alert: TcphupIdlePastKeepalive\s+expr: \|\n(.*?)\n\s+for:`).FindStringSubmatch(rules)
	if idle == nil || strings.Count(idle[1], "7200") != 2 {
		t.Fatalf("rule not found: %q", idle)
	}
	p.mustHaveData("TcphupIdlePastKeepalive", strings.ReplaceAll(idle[1], "7200", "1"), isPositive)
}

// checkLayout checks properties that Grafana does not reject: unique ids, queries in every
// panel, no overlap.
func (d *dashboard) checkLayout(t *testing.T) {
	t.Helper()
	seen := map[int]bool{}
	for i, p := range d.Panels {
		if seen[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		seen[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d has no query", p.ID)
		}
		g := p.GridPos
		if g.W <= 0 || g.H <= 0 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("panel %d does not fit: %+v", p.ID, g)
		}
		for _, q := range d.Panels[:i] {
			o := q.GridPos
			if g.X < o.X+o.W && o.X < g.X+g.W && g.Y < o.Y+o.H && o.Y < g.Y+g.H {
				t.Errorf("panels %d and %d overlap", q.ID, p.ID)
			}
		}
	}
	if len(d.Panels) == 0 || d.Panels[0].Title != staleRow {
		t.Errorf("first row is not %q", staleRow)
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	if want := []string{"datasource", "job", "namespace", "agents", "instance", "destination"}; !slices.Equal(variables, want) {
		t.Errorf("variables %v, want %v", variables, want)
	}
}
