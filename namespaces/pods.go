package namespaces

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// PodLogs is the directory in which the kubelet keeps the logs of pods.
const PodLogs = "/var/log/pods"

// Pod is the name of a Kubernetes pod.
type Pod struct{ Namespace, Name string }

// ReadPods returns the pods with a directory NAMESPACE_NAME_UID in the directory of PodLogs,
// by uid. Without the directory it returns none. A uid with several names has none: a pod that
// mounts the directory writable could create the others.
func ReadPods(directory string) (map[string]Pod, error) {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		err = fmt.Errorf("read names of pods: %w", err)
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w: grant CAP_DAC_READ_SEARCH, or run tcphup as root", err)
		}
		return nil, err
	}
	pods := make(map[string]Pod, len(entries))
	var ambiguous []string
	for _, e := range entries {
		uid, pod, ok := parsePodDirectory(e.Name())
		if !ok || !e.IsDir() {
			continue
		}
		if _, twice := pods[uid]; twice {
			ambiguous = append(ambiguous, uid)
		}
		pods[uid] = pod
	}
	for _, uid := range ambiguous {
		delete(pods, uid)
	}
	return pods, nil
}

// parsePodDirectory parses NAMESPACE_NAME_UID. None of the three has an underscore.
func parsePodDirectory(name string) (uid string, pod Pod, ok bool) {
	parts := strings.Split(name, "_")
	if len(parts) != 3 || !isName(parts[0]) || !isName(parts[1]) || !isPodUID(parts[2]) {
		return "", Pod{}, false
	}
	return parts[2], Pod{Namespace: parts[0], Name: parts[1]}, true
}

// isName reports whether s has the characters of a name of Kubernetes (RFC 1123).
func isName(s string) bool {
	const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyz"
	return s != "" && strings.Trim(s, alphanumeric+"-.") == "" &&
		strings.IndexByte(alphanumeric, s[0]) >= 0 && strings.IndexByte(alphanumeric, s[len(s)-1]) >= 0
}
