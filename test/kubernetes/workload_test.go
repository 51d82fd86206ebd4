package kubernetes

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	user     = "alertmanager"
	password = "a-password-for-the-tests"
)

// hashPassword returns the bcrypt hash of the password.
func hashPassword(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

// hangGuard bounds each wait for an event. Only a hang exceeds it.
const hangGuard = 2 * time.Minute

// eventually waits until condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hangGuard); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
	}
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := node.kubectl("", args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func apply(t *testing.T, manifest string) {
	t.Helper()
	if _, err := node.kubectl(manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, manifest)
	}
}

// namespace is a namespace with the web configuration of tcphup.
type namespace struct {
	t    *testing.T
	name string
}

// newNamespace creates a namespace at a Pod Security level. It is deleted after the test.
func newNamespace(t *testing.T, name, level string) *namespace {
	t.Helper()
	apply(t, fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {pod-security.kubernetes.io/enforce: %s}}}`, name, level))
	t.Cleanup(func() {
		if t.Failed() {
			for _, what := range []string{"pods", "events"} {
				out, err := node.kubectl("", "get", what, "-o", "wide", "-n", name)
				t.Logf("%s: %s%v", what, out, err)
			}
		}
		if _, err := node.kubectl("", "delete", "namespace", name, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	n := &namespace{t, name}
	eventually(t, "the service account exists", func() bool {
		_, err := node.kubectl("", "get", "serviceaccount", "default", "-n", name)
		return err == nil
	})
	n.kubectl("create", "configmap", "tcphup", fmt.Sprintf("--from-literal=web.yml=basic_auth_users: {%s: %q}", user, hashPassword(t)))
	return n
}

func (n *namespace) kubectl(args ...string) string {
	n.t.Helper()
	return kubectl(n.t, append([]string{"--namespace=" + n.name}, args...)...)
}

// workload is an application of the tests.
type workload struct {
	apiVersion, kind string
	args             []string // of the program app
	labels           string   // more labels of the pod
	user             string   // of the pod, as fields of its securityContext; appUser if empty
	containerUser    string   // the same of the container
	pod              string   // more fields of the pod, as lines of YAML with the right indentation
}

const (
	appUser  = "runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true"
	rootUser = "runAsUser: 0, runAsGroup: 0"
	// imageUser leaves the user of the image.
	imageUser = "runAsNonRoot: false"
)

func deployment(args ...string) workload {
	return workload{apiVersion: "apps/v1", kind: "Deployment", args: args}
}

// manifest returns a workload that is admitted at the Pod Security level restricted.
func (w workload) manifest() string {
	var spec string
	switch w.kind {
	case "Job":
		w.pod += "      restartPolicy: Never\n"
		spec = "  backoffLimit: 0\n"
	case "StatefulSet":
		spec = "  serviceName: app\n"
		fallthrough
	default:
		spec += "  selector: {matchLabels: {app: app}}\n"
	}
	args, _ := json.Marshal(w.args)
	return fmt.Sprintf(`apiVersion: %s
kind: %s
metadata:
  name: app
spec:
%s  template:
    metadata:
      labels: {app: app%s}
    spec:
%s      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      securityContext: {%s, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: app
          image: %s
          args: %s
          securityContext: {%s allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`, w.apiVersion, w.kind, spec, w.labels, w.pod, cmp.Or(w.user, appUser), imageName("app"), args, w.containerUser)
}

// applyWith applies a workload with a component of deploy/kubernetes and a patch, which may be
// empty.
func (n *namespace) applyWith(component string, w workload, patch string) {
	n.t.Helper()
	dir := n.t.TempDir()
	kustomization := fmt.Sprintf(`namespace: %s
resources: [app.yaml]
components: [kubernetes/%s]
images: [{name: tcphup, newName: docker.io/library/tcphup, newTag: "1"}]
`, n.name, component)
	if patch != "" {
		kustomization += "patches: [{target: {kind: " + w.kind + "}, path: patch.yaml}]\n"
	}
	writeKustomization(n.t, dir, kustomization, map[string]string{"app.yaml": w.manifest(), "patch.yaml": patch})
	n.kubectl("apply", "-k", dir)
}

// writeKustomization writes a kustomization and its files. In it, kubernetes/ is
// deploy/kubernetes.
func writeKustomization(t *testing.T, dir, kustomization string, files map[string]string) {
	t.Helper()
	source, err := filepath.Abs("../../deploy/kubernetes")
	if err == nil {
		source, err = filepath.Rel(dir, source)
	}
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"+strings.ReplaceAll(kustomization, "kubernetes/", source+"/"))
	for name, content := range files {
		write(name, content)
	}
}

// awaitPod waits until the pod of the workload is ready, and returns its name and address.
func (n *namespace) awaitPod() (name, address string) {
	n.t.Helper()
	eventually(n.t, "the pod of "+n.name+" is ready", func() bool {
		out := n.kubectl("get", "pods", "--selector=app=app", "--field-selector=status.phase=Running",
			`--output=jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
		fields := strings.Fields(out)
		if len(fields) != 3 || fields[2] != "True" {
			return false
		}
		name, address = fields[0], fields[1]
		return true
	})
	return name, address
}

// awaitMessage waits for a message of the workload or of its pods with this text.
func (n *namespace) awaitMessage(text string) {
	n.t.Helper()
	eventually(n.t, n.name+": "+text, func() bool {
		return strings.Contains(n.kubectl("get", "events", "--output=jsonpath={.items[*].message}"), text)
	})
}

// probe runs the self-test in the sidecar and returns the usable methods.
func (n *namespace) probe(pod string) string {
	n.t.Helper()
	// The exit code is 1 if no method is usable.
	out, err := node.kubectl("", "exec", "--namespace="+n.name, pod, "--container=tcphup", "--", "/tcphup", "probe", "--output=json")
	var checks []struct {
		Name   string
		Usable bool
	}
	if decodeErr := json.Unmarshal([]byte(out), &checks); decodeErr != nil {
		n.t.Fatalf("probe: %v: %v\n%s", decodeErr, err, out)
	}
	var usable []string
	for _, c := range checks {
		if c.Usable && (c.Name == "shutdown" || c.Name == "destroy") {
			usable = append(usable, c.Name)
		}
	}
	if usable == nil {
		return "none"
	}
	return strings.Join(usable, ", ")
}

// sample returns the value of a series of a sidecar, and false if it is missing.
func sample(t *testing.T, address, series string) (float64, bool) {
	t.Helper()
	response, err := http.Get("http://" + address + ":10471/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n, true
		}
	}
	return 0, false
}

// postAlert sends an alert about a destination to a sidecar and returns the status code and the
// number of flows by outcome.
func postAlert(t *testing.T, address string, destination string, port int) (int, map[string]int) {
	t.Helper()
	code, answer := postLabels(t, address, func(r *http.Request) { r.SetBasicAuth(user, password) },
		map[string]string{"destination": destination, "port": strconv.Itoa(port)})
	return code, answer.Flows
}

// answer is the response to a notification.
type answer struct{ Alerts, Flows map[string]int }

// postLabels sends an alert that starts now, with these labels and tcphup="hangup".
func postLabels(t *testing.T, address string, authorize func(*http.Request), labels map[string]string) (int, answer) {
	t.Helper()
	labels["alertname"], labels["tcphup"] = "Stale", "hangup"
	body, err := json.Marshal(map[string]any{"version": "4", "status": "firing", "alerts": []any{map[string]any{
		"status": "firing", "fingerprint": "c0ffee", "startsAt": time.Now().UTC().Format(time.RFC3339Nano), "labels": labels,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+":10472/alerts", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	authorize(request)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(content, &a); err != nil {
		t.Fatalf("%s: %s: %v", response.Status, content, err)
	}
	return response.StatusCode, a
}
