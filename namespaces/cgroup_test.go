package namespaces

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	uid    = "0b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b"
	static = "5c1d2e3f4a5b0b6a3a7e9c1f4f0d8a2b" // hash of a static pod's manifest
)

var (
	id      = strings.Repeat("0123456789abcdef", 4)
	other   = strings.Repeat("fedcba9876543210", 4)
	escaped = strings.ReplaceAll(uid, "-", "_")
)

func TestParseOrigin(t *testing.T) {
	pod := Origin{PodUID: uid, Container: id}
	tests := []struct {
		name, text string
		want       Origin
	}{
		{"empty", "", Origin{}},
		{"root", "0::/\n", Origin{}},
		{"containerd, systemd, v2", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + escaped + ".slice/cri-containerd-" + id + ".scope\n", pod},
		{"containerd, systemd, guaranteed", "0::/kubepods.slice/kubepods-pod" + escaped + ".slice/cri-containerd-" + id + ".scope\n", pod},
		{"containerd, cgroupfs, v2", "0::/kubepods/besteffort/pod" + uid + "/" + id + "\n", pod},
		{"containerd, cgroupfs, guaranteed", "0::/kubepods/pod" + uid + "/" + id + "\n", pod},
		{"containerd, cgroupfs, v1", "12:pids:/kubepods/burstable/pod" + uid + "/" + id + "\n1:name=systemd:/kubepods/burstable/pod" + uid + "/" + id + "\n", pod},
		{"containerd, driver that does not fit", "0::/system.slice/containerd.service/kubepods-burstable-pod" + escaped + ".slice:cri-containerd:" + id + "\n", pod},
		{"CRI-O, systemd", "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + escaped + ".slice/crio-" + id + ".scope\n", pod},
		{"CRI-O, with a cgroup of its own", "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + escaped + ".slice/crio-" + id + ".scope/container\n", pod},
		{"CRI-O, cgroupfs, v1", "4:memory:/kubepods/burstable/pod" + uid + "/crio-" + id + "\n", pod},
		{"CRI-O, monitor", "0::/kubepods.slice/kubepods-pod" + escaped + ".slice/crio-conmon-" + id + ".scope\n", Origin{PodUID: uid}},
		{"Docker in Kubernetes, systemd, v1", "4:memory:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + escaped + ".slice/docker-" + id + ".scope\n", pod},
		{"nested kubelet", "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + escaped + ".slice/cri-containerd-" + id + ".scope\n", pod},
		{"static pod", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + static + ".slice/cri-containerd-" + id + ".scope\n", Origin{PodUID: static, Container: id}},
		{"static pod, cgroupfs", "0::/kubepods/burstable/pod" + static + "/" + id + "\n", Origin{PodUID: static, Container: id}},
		{"systemd in a container", "0::/kubepods/pod" + uid + "/" + id + "/system.slice/nginx.service\n", pod},
		{"from another pod's cgroup namespace", "0::/../../../kubepods-burstable.slice/kubepods-burstable-pod" + escaped + ".slice/cri-containerd-" + id + ".scope\n", pod},
		{"from another pod's cgroup namespace, cgroupfs", "0::/../../pod" + uid + "/" + id + "\n", pod},
		{"from a container of the same pod", "0::/../cri-containerd-" + id + ".scope\n", Origin{Container: id}},
		{"Docker, systemd", "0::/system.slice/docker-" + id + ".scope\n", Origin{Container: id}},
		{"Docker, cgroupfs, v1", "13:cpu,cpuacct:/docker/" + id + "\n1:name=systemd:/docker/" + id + "\n", Origin{Container: id}},
		{"Docker, cgroupfs, v2", "0::/docker/" + id + "\n", Origin{Container: id}},
		{"Podman", "0::/machine.slice/libpod-" + id + ".scope/container\n", Origin{Container: id}},
		{"Podman of a user", "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope/container\n", Origin{Container: id}},
		{"Podman, monitor", "0::/machine.slice/libpod-conmon-" + id + ".scope\n", Origin{Unit: "libpod-conmon-" + id + ".scope"}},
		{"unit", "0::/system.slice/nginx.service\n", Origin{Unit: "nginx.service"}},
		{"unit with a cgroup of its own", "0::/system.slice/nginx.service/workers\n", Origin{Unit: "nginx.service"}},
		{"unit of a user", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/agent.service\n", Origin{Unit: "agent.service"}},
		{"session", "0::/user.slice/user-1000.slice/session-3.scope\n", Origin{Unit: "session-3.scope"}},
		{"unit, v1", "5:memory:/system.slice/other.service\n1:name=systemd:/system.slice/nginx.service\n", Origin{Unit: "nginx.service"}},
		{"container in v1, unit of the runtime in v2", "4:memory:/docker/" + id + "\n0::/system.slice/docker.service\n", Origin{Container: id}},
		{"unit of the runtime in v2, pod in v1", "0::/system.slice/containerd.service\n4:memory:/kubepods/pod" + uid + "/" + id + "\n", pod},

		{"container names another pod below its cgroup", "0::/kubepods/pod" + uid + "/" + id + "/pod0b6a3a7e-9c1f-4f0d-8a2b-000000000000/" + other + "\n", pod},
		{"pod names another pod below its cgroup", "0::/kubepods/pod" + uid + "/pod0b6a3a7e-9c1f-4f0d-8a2b-000000000000/" + other + "\n", Origin{PodUID: uid, Container: other}},
		{"container names a pod", "0::/docker/" + id + "/kubepods/pod" + uid + "/" + other + "\n", Origin{Container: id}},
		{"user names a pod", "0::/user.slice/user-1000.slice/user@1000.service/kubepods/pod" + uid + "/" + id + "\n", Origin{Container: id}},
		{"user names a pod, without a container", "0::/user.slice/user-1000.slice/user@1000.service/kubepods-pod" + escaped + ".slice\n", Origin{Unit: "user@1000.service"}},
		{"service names a pod", "0::/system.slice/agent.service/kubepods/pod" + uid + "/" + id + "\n", Origin{Container: id}},
		{"service names a pod as containerd does", "0::/system.slice/agent.service/kubepods-burstable-pod" + escaped + ".slice:cri-containerd:" + id + "\n", Origin{Container: id}},
		{"machine names a pod", "0::/machine.slice/machine-a.scope/payload/kubepods.slice/kubepods-pod" + escaped + ".slice/cri-containerd-" + id + ".scope\n", Origin{Container: id}},
		{"k3s, driver that does not fit", "0::/system.slice/k3s.service/kubepods-pod" + escaped + ".slice:cri-containerd:" + id + "\n", pod},
		{"short id", "0::/docker/" + id[1:] + "\n", Origin{}},
		{"not a uid", "0::/kubepods/pod" + uid[1:] + "/" + id + "\n", Origin{Container: id}},
		{"dashes in other places", "0::/kubepods/pod0b6a3a7e9-c1f-4f0d-8a2b-5d1c2e3f4a5b/" + id + "\n", Origin{Container: id}},
		{"path with a colon", "0::/a:b/c.service\n", Origin{Unit: "c.service"}},
		{"truncated", "0:", Origin{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ParseOrigin(tt.text)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseOrigin(f *testing.F) {
	f.Add("0::/kubepods/pod" + uid + "/" + id + "\n")
	f.Add("0::/kubepods.slice/kubepods-pod" + escaped + ".slice:cri-containerd:" + id)
	f.Add("1:name=systemd:/a.service")
	f.Fuzz(func(t *testing.T, text string) {
		o := ParseOrigin(text)
		if o.PodUID != "" && !isPodUID(o.PodUID) || o.Container != "" && (len(o.Container) != 64 || !isHex(o.Container)) {
			t.Errorf("%q: %+v", text, o)
		}
	})
}
