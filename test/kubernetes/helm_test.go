package kubernetes

import (
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const chart = "../../deploy/helm/tcphup"

// helmVariable is the environment variable for the path of helm.
const helmVariable = "TCPHUP_KUBERNETES_HELM"

func tryHelm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(os.Getenv(helmVariable), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+node.path("kubeconfig"), "HOME="+node.path("home"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func helm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryHelm(t, args...)
	if err != nil {
		t.Fatalf("helm %v: %v\n%s", args, err, out)
	}
	return out
}

// settings returns the arguments of helm for the image of the tests and these values.
func settings(t *testing.T, values ...string) []string {
	t.Helper()
	values = append([]string{"image.repository=docker.io/library/tcphup", "image.tag=1", "alerts.passwordHash=" + hashPassword(t)}, values...)
	var args []string
	for _, value := range values {
		args = append(args, "--set-string="+value)
	}
	return args
}

// TestChart checks the chart without a cluster: lint, both profiles, monitoring, and values that
// must be rejected.
func TestChart(t *testing.T) {
	for _, profile := range []string{"RuntimeDefault", "Localhost"} {
		values := append(settings(t, "injection.seccompProfile="+profile), "--set=monitoring.enabled=true")
		helm(t, append([]string{"lint", "--strict", chart, "--kube-version=1.34.0"}, values...)...)
		out := helm(t, append([]string{"template", "release", chart, "--kube-version=1.34.0"}, values...)...)
		for text, want := range map[string]bool{
			`add: ["SYS_PTRACE"]`: profile == "RuntimeDefault", `localhostProfile: "tcphup.json"`: profile == "Localhost",
			"failurePolicy: Ignore": true, "kind: PodMonitor": true, "alert: TcphupStaleSockets": true, `{{ template "tcphup.url" . }}`: true,
		} {
			if strings.Contains(out, text) != want {
				t.Errorf("%s: %q is in the manifests: %v\n%s", profile, text, !want, out)
			}
		}
	}
	for _, value := range []string{"alerts.passwordHash=", "alerts.passwordHash=a-password", "injection.seccompProfile=Unconfined"} {
		if out, err := tryHelm(t, append([]string{"template", "release", chart, "--kube-version=1.34.0"}, settings(t, value)...)...); err == nil {
			t.Errorf("accepted %s:\n%s", value, out)
		}
	}
}

// daemonSetPod returns the pod of the DaemonSet in these manifests, with the names that depend on
// the tool left out.
func daemonSetPod(t *testing.T, manifests string) map[string]any {
	t.Helper()
	out, err := node.kubectl(manifests, "create", "--dry-run=client", "--output=json", "-f", "-")
	if err != nil {
		t.Fatalf("%v\n%s", err, manifests)
	}
	type object struct {
		Kind string
		Spec struct {
			Template struct{ Spec map[string]any }
		}
	}
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		var o struct {
			object
			Items []object
		}
		if err := decoder.Decode(&o); err != nil {
			t.Fatalf("no DaemonSet: %v\n%s", err, out)
		}
		for _, o := range append(o.Items, o.object) {
			if o.Kind != "DaemonSet" {
				continue
			}
			pod := o.Spec.Template.Spec
			container := pod["containers"].([]any)[0].(map[string]any)
			delete(container, "image")
			delete(container, "imagePullPolicy")
			configuration := pod["volumes"].([]any)[0].(map[string]any)["projected"].(map[string]any)["sources"].([]any)[0].(map[string]any)
			delete(configuration["configMap"].(map[string]any), "name")
			return pod
		}
	}
}

// agentSettings returns the arguments of helm for agents.
func agentSettings(t *testing.T, more ...string) []string {
	t.Helper()
	return append(append(settings(t), "--set=node.enabled=true", "--set=injection.enabled=false"), more...)
}

// TestChartNode checks that the DaemonSet of the chart is the one of deploy/kubernetes, and the
// values that change it.
func TestChartNode(t *testing.T) {
	helm(t, append([]string{"lint", "--strict", chart, "--kube-version=1.34.0", "--set=monitoring.enabled=true"}, agentSettings(t)...)...)
	template := func(more ...string) string {
		t.Helper()
		out := helm(t, append([]string{"template", "release", chart, "--kube-version=1.34.0", "--show-only=templates/node.yaml"}, agentSettings(t, more...)...)...)
		_, manifests, _ := strings.Cut(out, "---\n") // after warnings
		return manifests
	}
	for _, tt := range []struct {
		kustomization string
		values        []string
	}{{"node", nil}, {"node-destroy", []string{"--set=node.destroy=true"}}} {
		dir := "../../deploy/kubernetes/node"
		if tt.kustomization != "node" {
			dir = t.TempDir()
			writeKustomization(t, dir, "resources: [kubernetes/node]\ncomponents: [kubernetes/"+tt.kustomization+"]\n", nil)
		}
		want, got := daemonSetPod(t, kubectl(t, "kustomize", dir)), daemonSetPod(t, template(tt.values...))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-kustomize +helm):\n%s", tt.kustomization, diff)
		}
	}
	out := template("--set=node.shadow=true", "--set=node.args={--node.cpu-budget=2s}", "--set=node.priorityClassName=critical", "--set=node.podLogs=/logs", "--set-json=node.config.never=[\"10.0.0.1\"]")
	for _, want := range []string{"- --alerts.shadow\n", "- \"--node.cpu-budget=2s\"\n", "priorityClassName: \"critical\"\n", "path: \"/logs\"", "    never:\n    - 10.0.0.1\n    policies: []\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
	monitoring := helm(t, append([]string{"template", "release", chart, "--kube-version=1.34.0", "--set=monitoring.enabled=true", "--show-only=templates/monitoring.yaml"}, agentSettings(t)...)...)
	for text, want := range map[string]bool{"honorLabels: true": true, "{tcphup: node,": true, "key: token}": true, "basicAuth": false, "values: [reading, acting]": false} {
		if strings.Contains(monitoring, text) != want {
			t.Errorf("%q is in the manifests: %v\n%s", text, !want, monitoring)
		}
	}
	if out, err := tryHelm(t, append([]string{"template", "release", chart, "--kube-version=1.34.0", "--set=node.enabled=true"}, settings(t)...)...); err == nil || !strings.Contains(out, "injection.enabled to false") {
		t.Errorf("accepted node with injection: %v\n%s", err, out)
	}
}

// TestChartAgent checks that the agents of the chart start, that a change of the configuration
// replaces them, and that nothing is left in the end.
func TestChartAgent(t *testing.T) {
	n := newNamespace(t, "agent-chart", "privileged")
	n.kubectl("create", "secret", "generic", "tcphup-tokens", "--from-literal=token="+agentToken)
	t.Cleanup(func() { _, _ = tryHelm(t, "uninstall", "release", "--namespace="+n.name, "--ignore-not-found") })
	// run installs or upgrades, and returns the name of the agent's pod. helm --wait does not wait
	// for the only pod of a DaemonSet, because maxUnavailable is 1.
	run := func(command string, values ...string) string {
		t.Helper()
		helm(t, append([]string{command, "release", chart, "--namespace=" + n.name}, agentSettings(t, values...)...)...)
		n.kubectl("rollout", "status", "daemonset/release", "--timeout=2m")
		return n.kubectl("get", "pods", "--selector=tcphup=node", "--field-selector=status.phase=Running", "--output=jsonpath={.items[*].metadata.name}")
	}
	first := run("install")
	if same := run("upgrade"); same != first {
		t.Errorf("an upgrade without a change replaced %s by %s", first, same)
	}
	if second := run("upgrade", "--set-json=node.config.never=[\"10.0.0.1\"]"); second == first || second == "" {
		t.Errorf("a change of the configuration left pod %q, was %q", second, first)
	}
	helm(t, "uninstall", "release", "--namespace="+n.name, "--wait")
	if left := objects(t); left != "" {
		t.Errorf("left after helm uninstall: %s", left)
	}
}

// objects returns the names of all objects with the label of the release, and of its storage.
func objects(t *testing.T) string {
	t.Helper()
	kinds := "mutatingadmissionpolicies.admissionregistration.k8s.io,mutatingadmissionpolicybindings.admissionregistration.k8s.io," +
		"mutatingwebhookconfigurations,clusterroles,secrets,configmaps,serviceaccounts,daemonsets,deployments"
	return kubectl(t, "get", kinds, "--all-namespaces", "--selector=app.kubernetes.io/name=tcphup", "--output=name") +
		kubectl(t, "get", "secrets", "--all-namespaces", "--selector=owner=helm", "--output=name")
}

// awaitInit waits for a pod and returns the names of its init containers and the type of the
// first one's seccomp profile, or "" without an init container.
func (n *namespace) awaitInit() string {
	n.t.Helper()
	var fields []string
	eventually(n.t, "a pod", func() bool {
		fields = strings.Fields(n.kubectl("get", "pods",
			"--output=jsonpath={range .items[*]}{.metadata.name} {.spec.initContainers[*].name} {.spec.initContainers[0].securityContext.seccompProfile.type}{end}"))
		return len(fields) > 0
	})
	return strings.Join(fields[1:], " ")
}

// awaitPolicy waits until the API server gives new labelled pods a sidecar with this seccomp
// profile, or none. A change of a policy is in force some time after its request.
func awaitPolicy(t *testing.T, profile string) {
	t.Helper()
	const pod = `{apiVersion: v1, kind: Pod, metadata: {name: try, labels: {tcphup: acting}}, spec: {containers: [{name: app, image: app}]}}`
	eventually(t, "the policy is in force", func() bool {
		got, err := node.kubectl(pod, "create", "--namespace=default", "--dry-run=server", "-f", "-", "--output=jsonpath={.spec.initContainers[*].securityContext.seccompProfile.type}")
		if err != nil {
			t.Fatal(err)
		}
		return got == profile
	})
}

// TestInjection checks that the policy of the chart gives labelled pods a working sidecar, that
// it changes no other pod, and that nothing of the chart is left in the end.
func TestInjection(t *testing.T) {
	installProfile(t)
	helm(t, append([]string{"install", "tcphup", chart, "--namespace=default"}, settings(t)...)...)
	// Leaves no policy for other tests.
	t.Cleanup(func() { _, _ = tryHelm(t, "uninstall", "tcphup", "--namespace=default", "--ignore-not-found") })
	awaitPolicy(t, "RuntimeDefault")
	const labelled = ", tcphup: acting"

	// want has the init containers of the pod and the profile of the first one, methods those that
	// the probe finds usable.
	try := func(name, level string, w workload, want, methods string) {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t, "injected-"+name, level)
			n.kubectl("delete", "configmap", "tcphup") // not needed
			database := startDatabase(t, nodeAddress, 0)
			w.args = []string{database.address(), strconv.Itoa(connections)}
			if _, err := node.kubectl(w.manifest(), "apply", "--namespace="+n.name, "-f", "-"); err != nil {
				t.Fatal(err)
			}
			if got := n.awaitInit(); got != want {
				t.Fatalf("init containers: %q, want %q", got, want)
			}
			pod, address := n.awaitPod()
			database.await(connections, 0)
			if methods == "" {
				return
			}
			if got := n.probe(pod); got != methods {
				t.Errorf("probe: %s, want %s", got, methods)
			}
			hungUp := 0
			if methods == "shutdown" {
				hungUp = connections
			}
			if code, flows := postAlert(t, address, database.host, database.port); code != 200 || flows["closed"] != hungUp {
				t.Errorf("hung up: %d, %v", code, flows)
			}
			database.await(connections+hungUp, hungUp)
		})
	}
	w := deployment()
	w.labels = labelled
	try("privileged", "privileged", w, "tcphup RuntimeDefault", "shutdown")
	own := w
	own.pod = "      volumes: [{name: own, emptyDir: {}}]\n      initContainers: [{name: first, image: " + imageName("app") +
		", args: [127.0.0.1:1, \"0\"], securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]\n"
	try("with-own", "privileged", own, "tcphup first RuntimeDefault", "shutdown")
	root := w
	root.user = rootUser
	try("root", "privileged", root, "tcphup RuntimeDefault", "shutdown")
	image := w
	image.user = imageUser
	try("image-user", "privileged", image, "tcphup RuntimeDefault", "none")
	image.containerUser = appUser + ","
	try("container-user", "privileged", image, "tcphup RuntimeDefault", "shutdown")
	host := w
	host.pod = "      hostNetwork: true\n"
	try("host-network", "privileged", host, "", "")
	host.pod = "      hostPID: true\n"
	try("host-pid", "privileged", host, "", "")
	try("unlabelled", "privileged", deployment(), "", "")
	t.Run("component", func(t *testing.T) {
		n := newNamespace(t, "injected-component", "privileged")
		n.applyWith("acting", deployment("127.0.0.1:1", "1"), "")
		if got := n.awaitInit(); got != "tcphup RuntimeDefault" {
			t.Errorf("init containers: %s", got)
		}
	})
	t.Run("forbidden", func(t *testing.T) {
		n := newNamespace(t, "injected-forbidden", "restricted")
		if _, err := node.kubectl(w.manifest(), "apply", "--namespace="+n.name, "-f", "-"); err != nil {
			t.Fatal(err)
		}
		n.awaitMessage("SYS_PTRACE")
	})

	helm(t, append([]string{"upgrade", "tcphup", chart, "--namespace=default"}, settings(t, "injection.seccompProfile=Localhost")...)...)
	awaitPolicy(t, "Localhost")
	try("restricted", "restricted", w, "tcphup Localhost", "shutdown")

	helm(t, "uninstall", "tcphup", "--namespace=default", "--wait")
	if left := objects(t); left != "" {
		t.Errorf("left after helm uninstall: %s", left)
	}
	awaitPolicy(t, "")
	try("uninstalled", "restricted", w, "", "")
}
