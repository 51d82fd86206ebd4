package tools

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	monitoringv1alpha1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
)

// object returns the only object of a type.
func object[T any](t *testing.T, objects []any) *T {
	t.Helper()
	var found *T
	for _, o := range objects {
		if o, ok := o.(*T); ok {
			if found != nil {
				t.Fatalf("more than one %T", o)
			}
			found = o
		}
	}
	if found == nil {
		t.Fatalf("no %T", found)
	}
	return found
}

// TestNode checks the rights of the node agent, with and without the method destroy.
func TestNode(t *testing.T) {
	for _, tt := range []struct {
		name    string
		objects []any
		add     []corev1.Capability
	}{
		{"node", build(t, "node"), []corev1.Capability{"DAC_READ_SEARCH", "SYS_ADMIN", "SYS_PTRACE"}},
		{"node-destroy", buildFiles(t, map[string]string{"kustomization.yaml": "resources: [kubernetes/node]\ncomponents: [kubernetes/node-destroy]\n"}),
			[]corev1.Capability{"DAC_READ_SEARCH", "SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := object[appsv1.DaemonSet](t, tt.objects).Spec.Template
			if level := object[corev1.Namespace](t, tt.objects).Labels["pod-security.kubernetes.io/enforce"]; level != string(strictest(t, pod)) || level != string(api.LevelPrivileged) {
				t.Errorf("Pod Security level %s of the namespace, %s of the pod", level, strictest(t, pod))
			}
			no, root := false, int64(0)
			want := &corev1.SecurityContext{
				Capabilities: &corev1.Capabilities{Add: tt.add, Drop: []corev1.Capability{"ALL"}},
				RunAsUser:    &root, RunAsGroup: &root, RunAsNonRoot: &no, AllowPrivilegeEscalation: &no,
				ReadOnlyRootFilesystem: new(true),
				SeccompProfile:         &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
				AppArmorProfile:        &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined},
				SELinuxOptions:         &corev1.SELinuxOptions{Type: "spc_t", Level: "s0"},
			}
			c := container(t, &pod.Spec)
			if diff := cmp.Diff(want, c.SecurityContext); diff != "" {
				t.Errorf("security context (-want +got):\n%s", diff)
			}
			if !pod.Spec.HostPID || pod.Spec.HostNetwork || pod.Spec.HostIPC || *pod.Spec.AutomountServiceAccountToken || pod.Spec.PriorityClassName != "" {
				t.Errorf("pod: %+v", pod.Spec)
			}
			if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Spec.Tolerations); diff != "" {
				t.Errorf("tolerations (-want +got):\n%s", diff)
			}
			mustMountReadOnly(t, &pod.Spec, c)
		})
	}
}

// mustMountReadOnly checks that all volumes are read-only except the state, and the only path
// of the node is the one with the names of pods.
func mustMountReadOnly(t *testing.T, pod *corev1.PodSpec, c *corev1.Container) {
	t.Helper()
	paths := map[string]string{}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			paths[v.Name] = v.HostPath.Path
		}
		if v.Secret != nil || v.ConfigMap != nil {
			t.Errorf("volume %s has the default mode", v.Name)
		}
		if p := v.Projected; p != nil && *p.DefaultMode != 0o400 {
			t.Errorf("volume %s has mode %o", v.Name, *p.DefaultMode)
		}
	}
	if diff := cmp.Diff(map[string]string{"pod-logs": "/var/log/pods"}, paths); diff != "" {
		t.Errorf("paths of the node (-want +got):\n%s", diff)
	}
	for _, m := range c.VolumeMounts {
		if m.ReadOnly != (m.Name != "tcphup-state") || paths[m.Name] != "" && m.MountPath != paths[m.Name] {
			t.Errorf("mount %+v", m)
		}
	}
}

// TestNodeConfiguration checks that a change of the configuration, also by an overlay, gives
// the ConfigMap another name, which rolls out the DaemonSet.
func TestNodeConfiguration(t *testing.T) {
	const own = "services: [{name: db.internal, port: 5432}]\npolicies: []\n"
	overlay := buildFiles(t, map[string]string{"tcphup.yml": own,
		"kustomization.yaml": "resources: [kubernetes/node]\nconfigMapGenerator: [{name: tcphup, namespace: tcphup, behavior: replace, files: [tcphup.yml]}]\n"})
	names := map[string]bool{}
	for _, tt := range []struct {
		objects []any
		want    string
	}{{build(t, "node"), string(read(t, kubernetes+"/node/tcphup.yml"))}, {overlay, own}} {
		configuration := object[corev1.ConfigMap](t, tt.objects)
		if diff := cmp.Diff(map[string]string{"tcphup.yml": tt.want}, configuration.Data); diff != "" {
			t.Errorf("configuration (-want +got):\n%s", diff)
		}
		var mounted []string
		for _, v := range object[appsv1.DaemonSet](t, tt.objects).Spec.Template.Spec.Volumes {
			if v.Projected != nil {
				mounted = append(mounted, v.Projected.Sources[0].ConfigMap.Name, v.Projected.Sources[1].Secret.Name)
			}
		}
		if diff := cmp.Diff([]string{configuration.Name, "tcphup-tokens"}, mounted); diff != "" {
			t.Errorf("mounted (-want +got):\n%s", diff)
		}
		names[configuration.Name] = true
	}
	if len(names) != 2 {
		t.Errorf("names of the ConfigMap: %v", names)
	}
}

// TestNodeMonitoring checks that each PodMonitor selects either agents or sidecars, and that
// series of agents keep the labels of the pods that they are about.
func TestNodeMonitoring(t *testing.T) {
	objects := build(t, "node-monitoring")
	agent := object[appsv1.DaemonSet](t, build(t, "node")).Spec.Template
	sidecar := podTemplates(build(t, "app"))[0]
	for name, tt := range map[string]struct {
		monitor        *monitoringv1.PodMonitor
		agent, sidecar bool
	}{
		"node-monitoring": {object[monitoringv1.PodMonitor](t, objects), true, false},
		"monitoring":      {object[monitoringv1.PodMonitor](t, build(t, "monitoring")), false, true},
	} {
		selector, err := metav1.LabelSelectorAsSelector(&tt.monitor.Spec.Selector)
		if err != nil {
			t.Fatal(err)
		}
		if selector.Matches(labels.Set(agent.Labels)) != tt.agent || selector.Matches(labels.Set(sidecar.Labels)) != tt.sidecar {
			t.Errorf("%s selects %v", name, selector)
		}
		endpoint := tt.monitor.Spec.PodMetricsEndpoints[0]
		if endpoint.HonorLabels != tt.agent || *endpoint.Port != container(t, &agent.Spec).Ports[0].Name {
			t.Errorf("%s: %+v", name, endpoint)
		}
		// TcphupDown expects the job NAMESPACE/tcphup.
		if tt.monitor.Name != "tcphup" {
			t.Errorf("%s: the monitor is %s", name, tt.monitor.Name)
		}
	}
	http := object[monitoringv1alpha1.AlertmanagerConfig](t, objects).Spec.Receivers[0].WebhookConfigs[0].HTTPConfig
	if http.BasicAuth != nil || http.Authorization == nil || http.Authorization.Credentials.Key != "token" || *http.FollowRedirects {
		t.Errorf("receiver: %+v", http)
	}
	rules := func(objects []any) monitoringv1.PrometheusRuleSpec {
		return object[monitoringv1.PrometheusRule](t, objects).Spec
	}
	if diff := cmp.Diff(rules(build(t, "monitoring")), rules(objects)); diff != "" {
		t.Errorf("rules (-monitoring +node-monitoring):\n%s", diff)
	}
}
