package kubernetes

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
)

// podsConfig accepts alerts for one namespace, and for another one only with its own token.
const podsConfig = `
policies:
  - name: team
    match: ['tcphup="hangup"', 'namespace="agent-team"']
    namespaces: [agent-team]
    allow: [10.250.0.0/24]
    token_file: /etc/tcphup/team.token
  - name: pods
    match: ['tcphup="hangup"']
    namespaces: [agent-pods]
    allow: [10.250.0.0/24]
`

// podManifest returns a pod with these containers, each with its connections to the database,
// that is admitted at the level restricted.
func podManifest(name, namespace string, d *database, containers ...string) string {
	var list []any
	for _, c := range containers {
		list = append(list, map[string]any{
			"name": c, "image": imageName("app"), "args": []string{d.address(), strconv.Itoa(connections)},
			"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []string{"ALL"}}},
		})
	}
	manifest, _ := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "namespace": namespace},
		"spec": map[string]any{
			"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1, "containers": list,
			"securityContext": map[string]any{
				"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true, "seccompProfile": map[string]any{"type": "RuntimeDefault"}},
		},
	})
	return string(manifest)
}

// startStatic starts a static pod and returns its name. The kubelet reads it from a file.
func startStatic(t *testing.T, namespace string, d *database) string {
	t.Helper()
	file := node.path("manifests", "static.json")
	if err := os.WriteFile(file, []byte(podManifest("static", namespace, d, "app")), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	})
	return "static-node" // the kubelet appends the name of the node
}

// TestAgentPods checks that an agent names the unchanged pods of its node, at the level
// restricted, and that an alert hangs up the connections of the pod that it names and of no other
// pod, all of which have connections to the same database.
func TestAgentPods(t *testing.T) {
	a := startAgent(t, "agent", podsConfig, "")
	n, team := newNamespace(t, "agent-pods", "restricted"), newNamespace(t, "agent-team", "restricted")
	d := startDatabase(t, nodeAddress, 0)
	apply(t, podManifest("app", "agent-pods", d, "app"))
	apply(t, podManifest("app", "agent-team", d, "app")) // an equal name
	apply(t, podManifest("many", "agent-pods", d, "first", "second"))
	job := workload{apiVersion: "batch/v1", kind: "Job", args: []string{d.address(), strconv.Itoa(connections), "--once"}}
	if _, err := node.kubectl(job.manifest(), "apply", "--namespace="+n.name, "-f", "-"); err != nil {
		t.Fatal(err)
	}
	jobPod, _ := n.awaitPod()
	pods := map[[2]string]int{
		{"agent-pods", "app"}: connections, {"agent-team", "app"}: connections, {"agent-pods", "many"}: 2 * connections,
		{"agent-pods", jobPod}: connections, {"agent-pods", startStatic(t, "agent-pods", d)}: connections,
	}
	total := 0
	for _, want := range pods {
		total += want
	}
	d.await(total, 0)
	for pod, want := range pods {
		a.awaitEstablished(pod[0], pod[1], d, want)
	}
	for metric, labels := range map[string]map[string]string{
		"tcphup_node_unnamed_pods": nil, "tcphup_node_namespaces": {"result": "failed"}, "tcphup_hangups_total": nil,
	} {
		if sum, series := a.sum(metric, labels); sum != 0 || series == 0 {
			t.Errorf("%s%v is %v in %d series", metric, labels, sum, series)
		}
	}

	awaitMargin(t)
	opened, ended := total, 0
	// hangUp sends an alert and checks how many connections it closes.
	hangUp := func(name, token, namespace, pod, result string, want, reopened int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			response := a.post(token, namespace, pod, d)
			if response.Alerts[result] != 1 || response.Flows["closed"] != want {
				t.Errorf("got %+v, want result %s and %d closed", response, result, want)
			}
			opened, ended = opened+reopened, ended+want
			d.await(opened, ended)
		})
	}
	hangUp("without a namespace", agentToken, "", "", "no_namespace", 0, 0)
	hangUp("without a namespace, with a pod", agentToken, "", "app", "no_namespace", 0, 0)
	hangUp("another token", agentToken, "agent-team", "app", "not_allowed", 0, 0)
	hangUp("pod", agentToken, "agent-pods", "app", "done", connections, connections)
	hangUp("containers", agentToken, "agent-pods", "many", "done", 2*connections, 2*connections)
	hangUp("static", agentToken, "agent-pods", "static-node", "done", connections, connections)
	hangUp("Job", agentToken, "agent-pods", jobPod, "done", connections, 0)
	n.kubectl("wait", "--for=condition=Complete", "job/app", "--timeout=2m")
	hangUp("token of the policy", teamToken, "agent-team", "app", "done", connections, connections)

	// After all alerts, each pod has been hung up once. The pod that has ended has no series.
	pods[[2]string{"agent-pods", jobPod}] = 0
	for pod, want := range pods {
		a.awaitEstablished(pod[0], pod[1], d, want)
	}
	if o, e := d.counts(); o != opened || e != ended {
		t.Errorf("%d connections opened, %d ended, want %d and %d", o, e, opened, ended)
	}
	for _, p := range []*namespace{n, team} {
		if restarts := p.kubectl("get", "pods", "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}"); strings.Trim(restarts, "0 ") != "" {
			t.Errorf("restarts of containers: %s", restarts)
		}
	}
}

// TestAgentHostNetwork checks that pods in the node's network namespace, and the node itself, are
// counted, have no series, and keep their connections.
func TestAgentHostNetwork(t *testing.T) {
	a := startAgent(t, "agent-host", "policies: [{name: host, match: ['tcphup=\"hangup\"'], namespaces: [agent-hostnetwork], allow: [10.250.0.0/24]}]\n", "")
	before, _ := a.sum("tcphup_node_host_network_pods", nil)
	n := newNamespace(t, "agent-hostnetwork", "privileged")
	d := startDatabase(t, nodeAddress, 0)
	w := deployment(d.address(), strconv.Itoa(connections))
	w.pod = "      hostNetwork: true\n"
	if _, err := node.kubectl(w.manifest(), "apply", "--namespace="+n.name, "-f", "-"); err != nil {
		t.Fatal(err)
	}
	pod, _ := n.awaitPod()
	d.await(connections, 0)
	eventually(t, "the pod is counted", func() bool {
		count, _ := a.sum("tcphup_node_host_network_pods", nil)
		return count == before+1
	})
	if count, _ := a.sum("tcphup_node_namespaces", map[string]string{"result": "node"}); count != 1 {
		t.Errorf("%v namespaces of the node", count)
	}
	if sum, series := a.sum("tcphup_sockets", map[string]string{"destination": d.host, "port": strconv.Itoa(d.port)}); series != 0 {
		t.Errorf("%v sockets to the database in %d series", sum, series)
	}
	for _, name := range []string{pod, ""} {
		if response := a.post(agentToken, n.name, name, d); len(response.Flows) != 0 {
			t.Errorf("pod %q: %+v", name, response)
		}
	}
	if opened, ended := d.counts(); opened != connections || ended != 0 {
		t.Errorf("%d connections opened, %d ended", opened, ended)
	}
}

// webPatch makes the web server require credentials. The kubelet has none.
const webPatch = `
- {op: add, path: /spec/template/spec/containers/0/args/-, value: --web.config.file=/etc/tcphup/web.yml}
- {op: replace, path: /spec/template/spec/containers/0/livenessProbe, value: {exec: {command: [/tcphup, healthcheck]}}}
- {op: replace, path: /spec/template/spec/containers/0/readinessProbe, value: {exec: {command: [/tcphup, healthcheck]}}}
`

// TestAgentCredentials checks that the connections of pods are listed for clients with credentials
// only, also on the agent's own loopback address.
func TestAgentCredentials(t *testing.T) {
	n := newNamespace(t, "agent-listed", "restricted")
	d := startDatabase(t, nodeAddress, 0)
	apply(t, podManifest("app", n.name, d, "app"))
	d.await(connections, 0)
	for _, tt := range []struct {
		name, patch       string
		anonymous, withIt int
	}{{"agent-open", "", http.StatusForbidden, http.StatusForbidden}, {"agent-web", webPatch, http.StatusUnauthorized, http.StatusOK}} {
		a := startAgent(t, tt.name, "policies: []\n", tt.patch)
		for _, authenticated := range []bool{false, true} {
			want := tt.anonymous
			if authenticated {
				want = tt.withIt
			}
			code, body := a.flows(authenticated)
			if code != want || strings.Contains(body, d.address()) != (want == http.StatusOK) {
				t.Errorf("%s, authenticated %v: %d, want %d\n%s", tt.name, authenticated, code, want, body)
			}
		}
		// The program of the image asks from within the pod.
		if out, err := node.kubectl("", "exec", "--namespace="+a.name, a.pod, "--", "/tcphup", "healthcheck", "http://127.0.0.1:10471/api/v1/flows"); (err == nil) != (tt.patch != "") {
			t.Errorf("%s: health check of the list: %v\n%s", tt.name, err, out)
		}
	}
}

// flows requests the list of connections.
func (a *agent) flows(authenticated bool) (code int, body string) {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, "http://"+a.address+":10471/api/v1/flows", http.NoBody)
	if err != nil {
		a.t.Fatal(err)
	}
	if authenticated {
		request.SetBasicAuth(user, password)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return response.StatusCode, string(content)
}
