package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
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

// TestPrivilegedDashboard checks that every query of the dashboard has data, given TCP and
// MPTCP sockets and some hang-ups.
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
		binary := testapp.Build(t)
		startProcess(t, program.Path(t), "serve", "--web.listen-address="+tcphupAddress,
			"--alerts.listen-address="+receiverAddress, "--alerts.token-file="+writeFile(t, "token", token))
		awaitPage(t, "http://"+tcphupAddress+"/-/ready")
		startPrometheus(t, idleFlows("0"), tcphupAddress)
		nstest.Eventually(t, "Prometheus has scraped twice", func() bool {
			return len(query(t, "count_over_time(tcphup_build_info[1m]) > 1")) > 0
		})

		for _, mptcp := range []bool{false, true} {
			if mptcp && !nstest.HasMPTCP() {
				continue // MPTCP queries are skipped below
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

		queries := 0
		hasData := func(what, expr string) {
			queries++
			if !strings.Contains(expr, "tcphup_mptcp_") {
				mustHaveData(t, what, expr)
				return
			}
			t.Run(what, func(t *testing.T) {
				nstest.NeedMPTCP(t)
				mustHaveData(t, what, expr)
			})
		}
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				hasData(fmt.Sprintf("panel %d, %s", p.ID, p.Title), target.Expr)
			}
		}
		for _, a := range d.Annotations.List {
			hasData("annotation "+a.Name, a.Target.Expr)
		}
		// Variables query label values.
		for _, q := range regexp.MustCompile(`label_values\((.+?), (\w+)\)"`).FindAllStringSubmatch(string(text), -1) {
			series, open := strings.CutSuffix(strings.ReplaceAll(q[1], `\"`, `"`), "}")
			separator := "{"
			if open {
				separator = ", "
			}
			hasData("variable "+q[2], series+separator+q[2]+`!=""}`)
		}
		if queries < 35 {
			t.Errorf("%d queries, want at least 35", queries)
		}
		// promtool does not check that the rules' metrics exist. Service metrics are skipped:
		// no service is configured here.
		rules, err := os.ReadFile("../../deploy/rules.yml")
		if err != nil {
			t.Fatal(err)
		}
		for _, expr := range regexp.MustCompile(`tcphup_\w+(\{[^}]*\})?`).FindAllString(string(rules), -1) {
			if !strings.HasPrefix(expr, "tcphup_service_") {
				hasData("metric of a rule", expr)
			}
		}
	})
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
	if len(d.Templating.List) != 3 {
		t.Errorf("%d variables, want the data source, the instance and the destination", len(d.Templating.List))
	}
}

// mustHaveData substitutes Grafana's variables and waits for a number.
func mustHaveData(t *testing.T, what, expr string) {
	t.Helper()
	expr = strings.NewReplacer("$instance", ".*", "$destination", ".*", "$__rate_interval", "5m", "$__range", "5m").Replace(expr)
	if strings.Contains(expr, "$") {
		t.Errorf("%s: unknown variable in %s", what, expr)
		return
	}
	nstest.Eventually(t, what+" has data: "+expr, func() bool {
		for _, value := range query(t, expr) {
			if value != "NaN" {
				return true
			}
		}
		return false
	})
}

// query returns the result values of a PromQL query.
func query(t *testing.T, expr string) []string {
	t.Helper()
	page, err := get(t, "http://"+prometheusAddress+"/api/v1/query?query="+url.QueryEscape(expr))
	if err != nil {
		t.Fatalf("%v\n%s", err, page)
	}
	var response struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal([]byte(page), &response); err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, r := range response.Data.Result {
		values = append(values, fmt.Sprint(r.Value[1]))
	}
	return values
}
