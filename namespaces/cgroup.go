package namespaces

import (
	"slices"
	"strings"
)

// Origin is the pod, container and unit in the cgroup path of a process. The zero value has none.
type Origin struct {
	// PodUID is the uid of a Kubernetes pod. A static pod has a hash in its place.
	PodUID string
	// Container is the id of a container: 64 hexadecimal digits.
	Container string
	// Unit is the systemd unit of a process outside of containers.
	Unit string
}

// ParseOrigin parses the content of /proc/PID/cgroup, of cgroup v1, v2 or both. It recognizes
// the paths of containerd, CRI-O, Docker and Podman with the systemd and the cgroupfs driver.
// The outermost pod or container counts: a process may have created the cgroups below it. No
// pod is below user.slice, where any user can create cgroups, nor below a unit (except those of
// container runtimes), where its user can.
func ParseOrigin(text string) Origin {
	var best Origin
	for line := range strings.Lines(text) {
		// ID:CONTROLLERS:PATH, see cgroups(7).
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		o := parsePath(path)
		switch {
		case o.PodUID != "" && o.Container != "":
			return o
		case o.PodUID != "", o.Container != "" && best.PodUID == "":
			best = o
		case o.Unit != "" && best == Origin{} && (controllers == "" || controllers == "name=systemd"):
			best = o
		}
	}
	return best
}

// runtimes are the units below which a container runtime puts pods if its cgroup driver does not
// fit the configuration.
var runtimes = [...]string{
	"containerd.service", "k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service",
	"snap.microk8s.daemon-containerd.service",
}

// parsePath returns the outermost pod and the container below it, or the outermost container,
// or else the innermost unit.
func parsePath(path string) Origin {
	var o Origin
	var ofUser bool
	for component := range strings.SplitSeq(path, "/") {
		// With a driver that does not fit its configuration, containerd creates one component
		// SLICE:cri-containerd:ID.
		for part := range strings.SplitSeq(component, ":") {
			if uid := podUID(part); uid != "" && o.PodUID == "" && !ofUser {
				o.PodUID = uid
			} else if id := containerID(part); id != "" {
				return Origin{PodUID: o.PodUID, Container: id}
			}
		}
		ofUser = ofUser || component == "user.slice"
		if strings.HasSuffix(component, ".service") || strings.HasSuffix(component, ".scope") {
			o.Unit = component
			ofUser = ofUser || !slices.Contains(runtimes[:], component)
		}
	}
	if o.PodUID != "" {
		o.Unit = ""
	}
	return o
}

// podUID returns the uid in podUID (cgroupfs) or PARENT-podUID.slice (systemd, where
// underscores replace the dashes).
func podUID(component string) string {
	name, slice := strings.CutSuffix(component, ".slice")
	uid, ok := strings.CutPrefix(name, "pod")
	if slice {
		_, uid, ok = cutLast(name, "-pod")
		uid = strings.ReplaceAll(uid, "_", "-")
	}
	if !ok || !isPodUID(uid) {
		return ""
	}
	return uid
}

// isPodUID reports whether uid is a UUID or the hash of a static pod, of 32 digits.
func isPodUID(uid string) bool {
	if len(uid) == 36 {
		for _, i := range []int{8, 13, 18, 23} {
			if uid[i] != '-' {
				return false
			}
		}
	}
	digits := strings.ReplaceAll(uid, "-", "")
	return (len(uid) == 36 || len(uid) == 32) && len(digits) == 32 && isHex(digits)
}

// containerID returns the id in ID (cgroupfs) or RUNTIME-ID.scope (systemd). The monitor
// processes of CRI-O and Podman are not in the container.
func containerID(component string) string {
	name := strings.TrimSuffix(component, ".scope")
	prefix, id, ok := cutLast(name, "-")
	if !ok {
		prefix, id = "", name
	}
	if len(id) != 64 || !isHex(id) || strings.HasSuffix(prefix, "conmon") {
		return ""
	}
	return id
}

func cutLast(s, separator string) (before, after string, found bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(separator):], true
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
