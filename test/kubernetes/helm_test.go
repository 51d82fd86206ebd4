package kubernetes

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
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
