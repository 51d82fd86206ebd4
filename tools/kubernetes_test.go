package tools

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	monitoringv1alpha1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the files that are made from others")

const (
	deploy     = "../deploy"
	kubernetes = deploy + "/kubernetes"
)

// decode decodes a manifest into the type of its apiVersion and kind. Unknown and duplicate
// fields are errors.
func decode(t *testing.T, manifest []byte) any {
	t.Helper()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(manifest, &kind); err != nil {
		t.Fatal(err)
	}
	objects := map[metav1.TypeMeta]any{
		{APIVersion: "v1", Kind: "Namespace"}:                                                             &corev1.Namespace{},
		{APIVersion: "v1", Kind: "ConfigMap"}:                                                             &corev1.ConfigMap{},
		{APIVersion: "apps/v1", Kind: "Deployment"}:                                                       &appsv1.Deployment{},
		{APIVersion: "apps/v1", Kind: "DaemonSet"}:                                                        &appsv1.DaemonSet{},
		{APIVersion: "apps/v1", Kind: "StatefulSet"}:                                                      &appsv1.StatefulSet{},
		{APIVersion: "batch/v1", Kind: "Job"}:                                                             &batchv1.Job{},
		{APIVersion: monitoring.GroupName + "/v1", Kind: monitoringv1.PodMonitorsKind}:                    &monitoringv1.PodMonitor{},
		{APIVersion: monitoring.GroupName + "/v1", Kind: monitoringv1.PrometheusRuleKind}:                 &monitoringv1.PrometheusRule{},
		{APIVersion: monitoring.GroupName + "/v1alpha1", Kind: monitoringv1alpha1.AlertmanagerConfigKind}: &monitoringv1alpha1.AlertmanagerConfig{},
		{APIVersion: "kustomize.config.k8s.io/v1beta1", Kind: "Kustomization"}:                            new(any), // checked by krusty
		{APIVersion: "kustomize.config.k8s.io/v1alpha1", Kind: "Component"}:                               new(any), // checked by krusty
	}
	object, ok := objects[kind]
	if !ok {
		t.Fatalf("unknown kind %v", kind)
	}
	if err := yaml.UnmarshalStrict(manifest, object); err != nil {
		t.Fatalf("%v: %v", kind, err)
	}
	return object
}

// build returns the objects of a kustomization in deploy/kubernetes.
func build(t *testing.T, name string) []any {
	t.Helper()
	return buildDirectory(t, filepath.Join(kubernetes, name))
}

// buildWith returns the objects of these manifests with a component of deploy/kubernetes.
func buildWith(t *testing.T, component string, manifests ...[]byte) []any {
	t.Helper()
	return buildFiles(t, map[string]string{
		"app.yaml":           string(bytes.Join(manifests, []byte("\n---\n"))),
		"kustomization.yaml": "components: [kubernetes/" + component + "]\nresources: [app.yaml]\n",
	})
}

// buildFiles returns the objects of a kustomization with these files. In kustomization.yaml,
// kubernetes/ is deploy/kubernetes.
func buildFiles(t *testing.T, files map[string]string) []any {
	t.Helper()
	dir := t.TempDir()
	source, err := filepath.Abs(kubernetes)
	if err != nil {
		t.Fatal(err)
	}
	if source, err = filepath.Rel(dir, source); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if name == "kustomization.yaml" {
			content = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n" + strings.ReplaceAll(content, "kubernetes/", source+"/")
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return buildDirectory(t, dir)
}

func buildDirectory(t *testing.T, dir string) []any {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var objects []any
	for _, r := range resources.Resources() {
		manifest, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, decode(t, manifest))
	}
	return objects
}

// TestManifests decodes every manifest and patch strictly.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob(kubernetes + "/*/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimPrefix(file, kubernetes+"/"), func(t *testing.T) { decode(t, read(t, file)) })
	}
}

// application returns the manifest of the example as another kind of workload.
func application(t *testing.T, apiVersion, kind string) []byte {
	t.Helper()
	manifest := string(read(t, kubernetes+"/app/deployment.yaml"))
	manifest = strings.Replace(manifest, "apiVersion: apps/v1\nkind: Deployment", "apiVersion: "+apiVersion+"\nkind: "+kind, 1)
	switch kind {
	case "Job":
		manifest = strings.Replace(manifest, "  selector: {matchLabels: {app.kubernetes.io/name: app}}\n", "", 1)
		manifest = strings.Replace(manifest, "      containers:\n", "      restartPolicy: Never\n      containers:\n", 1)
	case "StatefulSet":
		manifest = strings.Replace(manifest, "spec:\n", "spec:\n  serviceName: app\n", 1)
	}
	return []byte(manifest)
}

// TestComponents checks security context, capabilities and Pod Security level that each
// component gives to each kind of workload.
func TestComponents(t *testing.T) {
	kinds := []struct{ apiVersion, kind string }{{"apps/v1", "Deployment"}, {"apps/v1", "StatefulSet"}, {"apps/v1", "DaemonSet"}, {"batch/v1", "Job"}}
	var manifests [][]byte
	for _, k := range kinds {
		manifests = append(manifests, application(t, k.apiVersion, k.kind))
	}
	for _, tt := range []struct {
		name    string
		level   api.Level // strictest level that admits the pod
		uid     *int64    // nil if it is the application's
		add     []corev1.Capability
		profile string // of the node, for seccomp
		shares  bool
	}{
		{name: "reading", level: api.LevelRestricted, uid: new(int64(65534))},
		{name: "acting", level: api.LevelPrivileged, add: []corev1.Capability{"SYS_PTRACE"}, shares: true},
		{name: "acting-restricted", level: api.LevelRestricted, profile: "tcphup.json", shares: true},
		{name: "acting-root", level: api.LevelPrivileged, uid: new(int64(0)), add: []corev1.Capability{"DAC_READ_SEARCH", "NET_ADMIN", "SYS_PTRACE"}, shares: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			templates := podTemplates(buildWith(t, tt.name, manifests...))
			if len(templates) != len(kinds) {
				t.Fatalf("%d workloads, want %d", len(templates), len(kinds))
			}
			for _, template := range templates {
				if got := strictest(t, template); got != tt.level {
					t.Errorf("Pod Security level %s, want %s", got, tt.level)
				}
				pod := template.Spec
				security := container(t, &pod).SecurityContext
				if diff := cmp.Diff(tt.uid, security.RunAsUser); diff != "" || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem {
					t.Errorf("security context: %+v", security)
				}
				if diff := cmp.Diff(&corev1.Capabilities{Add: tt.add, Drop: []corev1.Capability{"ALL"}}, security.Capabilities); diff != "" {
					t.Errorf("capabilities (-want +got):\n%s", diff)
				}
				want := &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
				if tt.profile != "" {
					want = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &tt.profile}
				}
				if diff := cmp.Diff(want, security.SeccompProfile); diff != "" {
					t.Errorf("seccomp profile (-want +got):\n%s", diff)
				}
				if shares := pod.ShareProcessNamespace != nil && *pod.ShareProcessNamespace; shares != tt.shares {
					t.Errorf("shares the process namespace: %v, want %v", shares, tt.shares)
				}
				if pod.SecurityContext != nil && pod.SecurityContext.FSGroup != nil {
					t.Error("sets fsGroup of the application")
				}
			}
		})
	}
}

func podTemplates(objects []any) []corev1.PodTemplateSpec {
	var templates []corev1.PodTemplateSpec
	for _, o := range objects {
		switch o := o.(type) {
		case *appsv1.Deployment:
			templates = append(templates, o.Spec.Template)
		case *appsv1.StatefulSet:
			templates = append(templates, o.Spec.Template)
		case *appsv1.DaemonSet:
			templates = append(templates, o.Spec.Template)
		case *batchv1.Job:
			templates = append(templates, o.Spec.Template)
		}
	}
	return templates
}

// container returns the container of tcphup, a native sidecar in pods with an application.
func container(t *testing.T, pod *corev1.PodSpec) *corev1.Container {
	t.Helper()
	for _, c := range pod.InitContainers {
		if c.Name == "tcphup" && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			return &c
		}
	}
	if c := pod.Containers[0]; c.Name == "tcphup" && len(pod.Containers) == 1 {
		return &c
	}
	t.Fatal("no container of tcphup's")
	return nil
}

// strictest returns the strictest Pod Security level that admits the pod.
func strictest(t *testing.T, pod corev1.PodTemplateSpec) api.Level {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []api.Level{api.LevelRestricted, api.LevelBaseline} {
		allowed := true
		for _, result := range evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec) {
			allowed = allowed && result.Allowed
		}
		if allowed {
			return level
		}
	}
	return api.LevelPrivileged
}

// TestMonitoring checks that the Prometheus operator's objects match the pods and the files in
// deploy/ from which they are generated.
func TestMonitoring(t *testing.T) {
	rules := filepath.Join(kubernetes, "monitoring", "prometheusrule.yaml")
	if *update {
		writeRules(t, rules)
	}
	pods := podTemplates(build(t, "app"))[0]
	seen := 0
	for _, o := range build(t, "monitoring") {
		seen++
		switch o := o.(type) {
		case *monitoringv1.PodMonitor:
			selector, err := metav1.LabelSelectorAsSelector(&o.Spec.Selector)
			if err != nil {
				t.Fatal(err)
			}
			if !selector.Matches(labels.Set(pods.Labels)) {
				t.Errorf("the monitor does not select pods with the labels %v", pods.Labels)
			}
			if port := *o.Spec.PodMetricsEndpoints[0].Port; port != container(t, &pods.Spec).Ports[0].Name {
				t.Errorf("the monitor selects port %q", port)
			}
		case *monitoringv1.PrometheusRule:
			mustSetRunbook(t, o)
			var want monitoringv1.PrometheusRuleSpec
			if err := yaml.UnmarshalStrict(read(t, deploy+"/rules.yml"), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, o.Spec); diff != "" {
				t.Errorf("run go -C tools test -run TestMonitoring -update: (-rules.yml +%s)\n%s", rules, diff)
			}
		case *monitoringv1alpha1.AlertmanagerConfig:
			auth := o.Spec.Receivers[0].WebhookConfigs[0].HTTPConfig.BasicAuth
			if auth == nil || auth.Username.Name != auth.Password.Name || auth.Password.Key != "password" {
				t.Errorf("basic auth of Alertmanager: %+v", auth)
			}
		case *corev1.ConfigMap:
			if diff := cmp.Diff(string(read(t, deploy+"/alertmanager.tmpl")), o.Data["tcphup.tmpl"]); diff != "" {
				t.Errorf("template (-alertmanager.tmpl +templates.yaml):\n%s", diff)
			}
		default:
			t.Errorf("unexpected %T", o)
		}
	}
	if seen != 4 {
		t.Errorf("%d objects, want 4", seen)
	}
}

// mustSetRunbook checks that the patch in kustomization.yaml sets the address of the runbook
// in every rule.
func mustSetRunbook(t *testing.T, shipped *monitoringv1.PrometheusRule) {
	t.Helper()
	const relative, absolute = "docs/runbook.md", "https://example.org/tcphup/runbook"
	files := filesys.MakeFsInMemory()
	paths, err := filepath.Glob(filepath.Join(kubernetes, "monitoring", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content := string(read(t, path))
		if filepath.Base(path) == "kustomization.yaml" {
			if strings.Count(content, relative) != 1 {
				t.Fatalf("%s: %s is not set in one place", path, relative)
			}
			content = strings.Replace(content, relative, absolute, 1)
		}
		if err := files.WriteFile(filepath.Base(path), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, ".")
	if err != nil {
		t.Fatal(err)
	}
	built, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, g := range shipped.Spec.Groups {
		for _, r := range g.Rules {
			rules++
			if want := strings.Replace(r.Annotations["runbook_url"], relative, absolute, 1); !strings.Contains(string(built), " "+want+"\n") {
				t.Errorf("%s: no runbook_url %s", r.Alert, want)
			}
		}
	}
	if rules == 0 {
		t.Error("no rules")
	}
}

// writeRules writes the rules of deploy/ into the PrometheusRule object.
func writeRules(t *testing.T, path string) {
	t.Helper()
	var out strings.Builder
	out.WriteString("# Made from deploy/rules.yml: go -C tools test -run TestMonitoring -update\n" +
		"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: tcphup\nspec:\n")
	for line := range strings.Lines(string(read(t, deploy+"/rules.yml"))) {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			out.WriteString(line)
		default:
			out.WriteString("  " + line)
		}
	}
	if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
