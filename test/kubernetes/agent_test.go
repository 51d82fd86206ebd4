package kubernetes

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	agentToken = "a-token-of-alertmanager-for-all-policies"
	teamToken  = "a-token-of-alertmanager-for-one-policy"
)

// agent is the DaemonSet of deploy/kubernetes/node in a namespace of its own.
type agent struct {
	*namespace
	pod, address string
}

// newAgent applies deploy/kubernetes/node with this configuration, components and JSON patch of
// the DaemonSet, which may be empty. It does not wait for the pod.
func newAgent(t *testing.T, name, configuration, patch string, components ...string) *agent {
	t.Helper()
	n := newNamespace(t, name, "privileged")
	n.kubectl("create", "secret", "generic", "tcphup-tokens", "--from-literal=token="+agentToken, "--from-literal=team.token="+teamToken,
		fmt.Sprintf("--from-literal=web.yml=basic_auth_users: {%s: %q}", user, hashPassword(t)))
	kustomization := fmt.Sprintf(`namespace: %s
resources: [kubernetes/node]
images: [{name: tcphup, newName: docker.io/library/tcphup, newTag: "1"}]
configMapGenerator: [{name: tcphup, namespace: tcphup, behavior: replace, files: [tcphup.yml]}]
`, name)
	for _, c := range components {
		kustomization += "components: [kubernetes/" + c + "]\n"
	}
	if patch != "" {
		kustomization += "patches: [{target: {kind: DaemonSet}, path: patch.yaml}]\n"
	}
	dir := t.TempDir()
	writeKustomization(t, dir, kustomization, map[string]string{"tcphup.yml": configuration, "patch.yaml": patch})
	n.kubectl("apply", "-k", dir)
	return &agent{namespace: n}
}

// startAgent is newAgent, and waits until the agent is ready.
func startAgent(t *testing.T, name, configuration, patch string, components ...string) *agent {
	t.Helper()
	a := newAgent(t, name, configuration, patch, components...)
	t.Cleanup(func() {
		if t.Failed() {
			out, err := node.kubectl("", "logs", "--namespace="+name, "daemonset/tcphup")
			t.Logf("log of the agent: %s%v", out, err)
		}
	})
	a.kubectl("rollout", "status", "daemonset/tcphup", "--timeout=2m")
	fields := strings.Fields(a.kubectl("get", "pods", "--selector=tcphup=node", "--output=jsonpath={.items[*].metadata.name} {.items[*].status.podIP}"))
	if len(fields) != 2 {
		t.Fatalf("pods of the agent: %v", fields)
	}
	a.pod, a.address = fields[0], fields[1]
	return a
}

// sum returns the sum of the series of a metric that have these labels, and their number.
func (a *agent) sum(metric string, labels map[string]string) (sum float64, series int) {
	a.t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^`+metric+`(?:\{(.*)\})? (\S+)$`).FindAllStringSubmatch(get("http://"+a.address+":10471/metrics"), -1) {
		found := map[string]string{}
		for _, l := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(m[1], -1) {
			found[l[1]] = l[2]
		}
		matches := true
		for name, value := range labels {
			matches = matches && found[name] == value
		}
		if !matches {
			continue
		}
		value, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			a.t.Fatal(err)
		}
		sum, series = sum+value, series+1
	}
	return sum, series
}

// established returns the number of established connections of a pod to the database.
func (a *agent) established(namespace, pod string, d *database) int {
	a.t.Helper()
	sum, _ := a.sum("tcphup_sockets", map[string]string{
		"namespace": namespace, "pod": pod, "destination": d.host, "port": strconv.Itoa(d.port), "state": "established"})
	return int(sum)
}

// awaitEstablished waits until the agent exports this number of connections of a pod.
func (a *agent) awaitEstablished(namespace, pod string, d *database, want int) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("%d connections of %s/%s", want, namespace, pod), func() bool { return a.established(namespace, pod, d) == want })
}

// post sends an alert about connections of a pod to the database. Without a pod or namespace,
// the alert lacks the label.
func (a *agent) post(token, namespace, pod string, d *database) answer {
	a.t.Helper()
	labels := map[string]string{"destination": d.host, "port": strconv.Itoa(d.port)}
	for name, value := range map[string]string{"namespace": namespace, "pod": pod} {
		if value != "" {
			labels[name] = value
		}
	}
	code, response := postLabels(a.t, a.address, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }, labels)
	if code != http.StatusOK {
		a.t.Errorf("alert for %s/%s: %d, %v", namespace, pod, code, response)
	}
	return response
}

// awaitMargin waits until the pods that run now are older than an alert that starts now, by more
// than the margin for their clocks. The pods of real alerts are older, because of their `for`.
func awaitMargin(t *testing.T) {
	t.Helper()
	now := time.Now()
	eventually(t, "the pods are older than an alert", func() bool { return time.Since(now) > 2*time.Second })
}
