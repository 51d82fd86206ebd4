package tools

import (
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
		{APIVersion: monitoring.GroupName + "/v1", Kind: monitoringv1.PodMonitorsKind}:                    &monitoringv1.PodMonitor{},
		{APIVersion: monitoring.GroupName + "/v1", Kind: monitoringv1.PrometheusRuleKind}:                 &monitoringv1.PrometheusRule{},
		{APIVersion: monitoring.GroupName + "/v1alpha1", Kind: monitoringv1alpha1.AlertmanagerConfigKind}: &monitoringv1alpha1.AlertmanagerConfig{},
		{APIVersion: "kustomize.config.k8s.io/v1beta1", Kind: "Kustomization"}:                            new(any), // checked by krusty
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

// build returns the objects of a kustomize overlay.
func build(t *testing.T, overlay string) []any {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(kubernetes, overlay))
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

// TestOverlays checks security context, capabilities and Pod Security level of each overlay.
func TestOverlays(t *testing.T) {
	for _, tt := range []struct {
		overlay string
		level   api.Level // strictest level that admits the pod
		uid     int64
		add     []corev1.Capability
		shares  bool
	}{
		{overlay: "reading", level: api.LevelRestricted, uid: 65534},
		{overlay: "acting", level: api.LevelPrivileged, uid: 1000, add: []corev1.Capability{"SYS_PTRACE"}, shares: true},
		{overlay: "acting-root", level: api.LevelPrivileged, add: []corev1.Capability{"DAC_READ_SEARCH", "NET_ADMIN", "SYS_PTRACE"}, shares: true},
		{overlay: "host", level: api.LevelPrivileged, add: []corev1.Capability{"DAC_READ_SEARCH", "NET_ADMIN", "SYS_PTRACE"}},
	} {
		t.Run(tt.overlay, func(t *testing.T) {
			template := podTemplate(t, build(t, tt.overlay))
			if got := strictest(t, template); got != tt.level {
				t.Errorf("Pod Security level %s, want %s", got, tt.level)
			}
			pod := template.Spec
			tcphup := container(t, &pod)
			security := tcphup.SecurityContext
			if *security.RunAsUser != tt.uid || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem {
				t.Errorf("security context: %+v", security)
			}
			if diff := cmp.Diff(&corev1.Capabilities{Add: tt.add, Drop: []corev1.Capability{"ALL"}}, security.Capabilities); diff != "" {
				t.Errorf("capabilities (-want +got):\n%s", diff)
			}
			if shares := pod.ShareProcessNamespace != nil && *pod.ShareProcessNamespace; shares != tt.shares {
				t.Errorf("shares the process namespace: %v, want %v", shares, tt.shares)
			}
			if tt.overlay == "acting" {
				app := pod.Containers[0].SecurityContext
				if *app.RunAsUser != *security.RunAsUser || *app.RunAsGroup != *security.RunAsGroup || *pod.SecurityContext.FSGroup != *security.RunAsGroup {
					t.Error("tcphup and the application are not of the same user and group")
				}
			}
		})
	}
}

func podTemplate(t *testing.T, objects []any) corev1.PodTemplateSpec {
	t.Helper()
	for _, o := range objects {
		switch o := o.(type) {
		case *appsv1.Deployment:
			return o.Spec.Template
		case *appsv1.DaemonSet:
			return o.Spec.Template
		}
	}
	t.Fatal("the overlay makes no pods")
	return corev1.PodTemplateSpec{}
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
	pods := podTemplate(t, build(t, "acting"))
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
			var secret string
			for _, v := range pods.Spec.Volumes {
				if v.Secret != nil {
					secret = v.Secret.SecretName
				}
			}
			if got := o.Spec.Receivers[0].WebhookConfigs[0].HTTPConfig.Authorization.Credentials.Name; got != secret {
				t.Errorf("Alertmanager takes the token from %q, tcphup from %q", got, secret)
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
