package kubernetes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeFiles writes the configuration of all components.
func (c *cluster) writeFiles() error {
	binary := os.Getenv(binaryVariable)
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("binary of the cluster: %w; run make kubernetes", err)
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"} {
		if err := os.Symlink(binary, c.path("bin", name)); err != nil {
			return err
		}
	}
	var errs []error
	for name, content := range map[string]string{
		"tokens.csv": adminToken + `,admin,admin,"system:masters"` + "\n",
		"kubeconfig": fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: admin, user: {token: %q}}]
contexts: [{name: admin, context: {cluster: node, user: admin}}]
current-context: admin
`, apiServer, c.path("pki", "ca.crt"), adminToken),
		"cni/10-bridge.conflist": fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "pods0", "isGateway": true, "ipam": {
    "type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.251.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`, c.path("addresses")),
		// The scores of out-of-memory kills cannot be lowered inside of every container.
		"containerd.toml": fmt.Sprintf(`version = 2
root = %q
state = %q
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`, c.path("containerd"), "/run/containerd", c.path(containerd), c.path("opt"), imageName("pause"), c.path("cni")),
		"kubelet.yaml": fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %q
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: %q
cgroupsPerQOS: true
containerRuntimeEndpoint: %q
enforceNodeAllocatable: []
evictionHard: {memory.available: 1Mi}
failCgroupV1: false
failSwapOn: false
fileCheckFrequency: 1s
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
protectKernelDefaults: true
serializeImagePulls: true
staticPodPath: %q
syncFrequency: 5s
volumePluginDir: %q
`, nodeAddress, "/"+filepath.Base(c.dir), "unix://"+c.path(containerd), c.path("manifests"), c.path("plugins")),
	} {
		errs = append(errs, os.WriteFile(c.path(name), []byte(content), 0o600))
	}
	return errors.Join(errs...)
}
