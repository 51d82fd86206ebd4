package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// chainConfig watches a name of the pods' own resolver and accepts alerts for one namespace.
const chainConfig = `
services: [{name: db.internal, port: 5432, settle: 2s, interval: 1s, resolver: "` + nodeAddress + `:53"}]
policies:
  - name: stale
    match: ['alertname="TcphupStaleSockets"']
    namespaces: [agent-shop]
    allow: [db.internal]
    labels: {service: service}
`

// TestAgentChain covers the chain from Prometheus to the agent with the shipped rules and
// Alertmanager's configuration: a name fails over, and the stale connections of each pod in a
// namespace of the policy are hung up. Those of another namespace stay open.
func TestAgentChain(t *testing.T) {
	var databases []*database
	for _, address := range []string{"10.250.0.4", "10.250.0.5"} {
		if out, err := exec.Command("ip", "addr", "add", address+"/24", "dev", "node0").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		databases = append(databases, startDatabase(t, address, 5432))
	}
	names := &nameServer{t: t}
	names.set(databases[0].host)
	const replicas = 2
	for name, count := range map[string]int{"agent-shop": replicas, "agent-other": 1} {
		n := newNamespace(t, name, "restricted")
		w := deployment("db.internal:5432", fmt.Sprint(connections))
		w.pod = "      dnsPolicy: None\n      dnsConfig: {nameservers: [" + nodeAddress + "]}\n"
		if _, err := node.kubectl(strings.Replace(w.manifest(), "spec:\n", fmt.Sprintf("spec:\n  replicas: %d\n", count), 1), "apply", "--namespace="+name, "-f", "-"); err != nil {
			t.Fatal(err)
		}
		n.kubectl("rollout", "status", "deployment/app", "--timeout=2m")
	}
	const all = (replicas + 1) * connections
	databases[0].await(all, 0)
	a := startAgent(t, "agent-chain", chainConfig, "")

	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(agentToken), 0o600); err != nil {
		t.Fatal(err)
	}
	startMonitoring(t, "agent-chain/tcphup", ", honor_labels: true", a.podTargets("tcphup=node"), "authorization: {credentials_file: "+token+"}")
	eventually(t, "Prometheus has the connections of each pod", func() bool {
		return strings.Contains(query(fmt.Sprintf(`count by (namespace) (sum by (namespace, pod) (tcphup_service_sockets{address="current"}) == %d)`, connections)), fmt.Sprintf(`"%d"`, replicas))
	})
	nodeQueriesMustWork(t)

	names.set(databases[1].host)
	databases[0].await(replicas*connections, replicas*connections)
	databases[1].await(replicas*connections, 0)
	eventually(t, "the alert for the other namespace is rejected", func() bool {
		rejected, _ := a.sum("tcphup_alerts_total", map[string]string{"result": "not_allowed"})
		unmatched, _ := a.sum("tcphup_alerts_total", map[string]string{"result": "unmatched"})
		return rejected+unmatched > 0
	})
	if closed, _ := a.sum("tcphup_hangups_total", map[string]string{"outcome": "closed", "policy": "stale"}); closed != replicas*connections {
		t.Errorf("%v connections closed", closed)
	}
	if opened, ended := databases[0].counts(); opened != all || ended != replicas*connections {
		t.Errorf("%d connections opened, %d ended", opened, ended)
	}
	eventually(t, "the alerts of the first namespace resolve", func() bool {
		active := activeAlerts()
		return strings.Contains(active, "agent-other") && !strings.Contains(active, "agent-shop")
	})
	for _, alert := range []string{"TcphupDown", "TcphupScrapeFailing", "TcphupNamespacesFailing", "TcphupPodsUnnamed", "TcphupNoMethodUsable", "TcphupNotificationsRejected"} {
		if fired := query(`count_over_time(ALERTS{alertname="` + alert + `"}[1h])`); !strings.Contains(fired, `"result":[]`) {
			t.Errorf("%s was pending or fired: %s", alert, fired)
		}
	}
}

// nodeQueriesMustWork checks the queries of the dashboard about agents, which have no data
// elsewhere.
func nodeQueriesMustWork(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	queries := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			if !strings.Contains(target.Expr, "tcphup_node_") {
				continue
			}
			queries++
			expr := strings.NewReplacer("$job", ".*", "$namespace", ".*", "$instance", ".*", "$__rate_interval", "5m").Replace(target.Expr)
			eventually(t, "panel "+panel.Title, func() bool { return strings.Contains(query(expr), `"value":`) })
		}
	}
	if queries < 4 {
		t.Errorf("%d queries about agents", queries)
	}
}
