package kubernetes

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"tcphup/test/kit/docs"
)

// connections is how many connections an application of the tests holds.
const connections = 5

// runtimeDefault makes the sidecar use the runtime's seccomp profile.
const runtimeDefault = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: any}
spec: {template: {spec: {initContainers: [{name: tcphup, securityContext: {seccompProfile: {type: RuntimeDefault, localhostProfile: null}}}]}}}
`

// TestComponents checks each component at each Pod Security level: whether the pod is admitted,
// the result of the probe, and whether an alert hangs up the connections. The results are the table
// in docs/kubernetes.md.
func TestComponents(t *testing.T) {
	const forbidden, stuck = "no", "yes, but does not start"
	var rows [][]string
	for _, tt := range []struct {
		component, level string
		seccomp          string
		patch            string
		noProfile        bool // the profile's file is not on the node
		// Expected cells of the table.
		admitted, probe, hungUp string
	}{
		{component: "reading", level: "restricted", seccomp: "RuntimeDefault", admitted: "yes", probe: "none", hungUp: "no receiver"},
		{component: "acting", level: "restricted", seccomp: "RuntimeDefault", admitted: forbidden},
		{component: "acting", level: "baseline", seccomp: "RuntimeDefault", admitted: forbidden},
		{component: "acting", level: "privileged", seccomp: "RuntimeDefault", admitted: "yes", probe: "shutdown", hungUp: "5 of 5"},
		{component: "acting-restricted", level: "restricted", seccomp: "Localhost", admitted: "yes", probe: "shutdown", hungUp: "5 of 5"},
		{component: "acting-restricted", level: "restricted", seccomp: "Localhost, file missing", noProfile: true, admitted: stuck},
		{component: "acting-restricted", level: "restricted", seccomp: "RuntimeDefault (containerd)", patch: runtimeDefault, admitted: "yes", probe: "none", hungUp: "0 of 5"},
		{component: "acting-root", level: "baseline", seccomp: "RuntimeDefault", admitted: forbidden},
		{component: "acting-root", level: "privileged", seccomp: "RuntimeDefault", admitted: "yes", probe: "shutdown, destroy", hungUp: "5 of 5"},
	} {
		row := []string{docs.Code(tt.component), tt.level, tt.seccomp, tt.admitted, tt.probe, tt.hungUp}
		rows = append(rows, row)
		t.Run(strings.Join([]string{tt.component, tt.level, tt.seccomp}, " "), func(t *testing.T) {
			if !tt.noProfile {
				installProfile(t)
			}
			n := newNamespace(t, "component-"+strconv.Itoa(len(rows)), tt.level)
			database := startDatabase(t, nodeAddress, 0)
			n.applyWith(tt.component, deployment(database.address(), strconv.Itoa(connections)), tt.patch)
			switch tt.admitted {
			case forbidden:
				n.awaitMessage("violates PodSecurity")
				return
			case stuck:
				n.awaitMessage("tcphup.json")
				if phase := n.kubectl("get", "pods", "--output=jsonpath={.items[*].status.phase}"); phase != "Pending" {
					t.Errorf("the pod is %s", phase)
				}
				return
			}
			pod, address := n.awaitPod()
			database.await(connections, 0)
			if got := n.probe(pod); got != tt.probe {
				t.Errorf("probe: %s, want %s", got, tt.probe)
			}
			if tt.component == "reading" {
				return
			}
			want := 0.0
			if strings.Contains(tt.probe, "shutdown") {
				want = 1
			}
			eventually(t, "the self-test has found the application", func() bool {
				usable, ok := sample(t, address, `tcphup_method_usable{method="shutdown"}`)
				return ok && usable == want
			})
			code, flows := postAlert(t, address, database.host, database.port)
			if got := fmt.Sprintf("%d of %d", flows["closed"], connections); code != 200 || got != tt.hungUp {
				t.Errorf("hung up %s, want %s: %d, %v", got, tt.hungUp, code, flows)
			}
			if flows["closed"] > 0 {
				database.await(2*connections, connections)
			}
		})
	}
	if !t.Failed() {
		docs.Check(t, "../../docs/kubernetes.md", "components",
			docs.Table([]string{"component", "Pod Security level", "seccomp profile", "admitted", "methods of `tcphup probe`", "hung up by an alert"}, rows))
	}
}

// installProfile puts the seccomp profile on the node until the test ends.
func installProfile(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile("../../deploy/kubernetes/acting-restricted/tcphup.json")
	if err != nil {
		t.Fatal(err)
	}
	file := node.path("kubelet", "seccomp", "tcphup.json")
	if err := os.MkdirAll(node.path("kubelet", "seccomp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	})
}

// TestKinds checks a component with each kind of workload at the level restricted. A Job
// completes: its sidecar does not keep it.
func TestKinds(t *testing.T) {
	installProfile(t)
	for _, w := range []workload{
		{apiVersion: "apps/v1", kind: "Deployment"}, {apiVersion: "apps/v1", kind: "StatefulSet"},
		{apiVersion: "apps/v1", kind: "DaemonSet"}, {apiVersion: "batch/v1", kind: "Job"},
	} {
		t.Run(w.kind, func(t *testing.T) {
			n := newNamespace(t, "kind-"+strings.ToLower(w.kind), "restricted")
			database := startDatabase(t, nodeAddress, 0)
			w.args = []string{database.address(), strconv.Itoa(connections)}
			reopened := connections
			if w.kind == "Job" {
				w.args = append(w.args, "--once")
				reopened = 0
			}
			n.applyWith("acting-restricted", w, "")
			_, address := n.awaitPod()
			database.await(connections, 0)
			if code, flows := postAlert(t, address, database.host, database.port); code != 200 || flows["closed"] != connections {
				t.Errorf("hung up: %d, %v", code, flows)
			}
			database.await(connections+reopened, connections)
			if w.kind == "Job" {
				n.kubectl("wait", "--for=condition=Complete", "job/app", "--timeout=5m")
			}
		})
	}
}
