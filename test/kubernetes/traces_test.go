package kubernetes

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// tunables are the kernel parameters that the kubelet sets, and its values. They are not
// namespaced. The kubelet of the tests gets files with its values in their place.
var tunables = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// directories are where the programs of a node have files unless they are configured otherwise.
var directories = []string{
	"/etc/cni", "/etc/kubernetes", "/opt/cni", "/opt/containerd", "/run/containerd", "/usr/libexec/kubernetes", "/var/lib/cni",
	"/var/lib/containerd", "/var/lib/etcd", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods",
}

// traces are the changes of the cluster to the machine: its directory and its cgroups. Kernel
// parameters must not change, and the directories of a node must not appear.
type traces struct {
	dir        string
	existed    map[string]bool // of directories
	cgroups    []string        // one for each hierarchy
	parameters map[string]string
}

// newTraces creates the cgroups of a cluster, with the name of its directory.
func newTraces(dir string) (*traces, error) {
	t := &traces{dir: dir, existed: readDirectories(), parameters: readTunables()}
	hierarchies, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	for _, mount := range hierarchies {
		cgroup := filepath.Join(mount, filepath.Base(dir))
		if err := os.Mkdir(cgroup, 0o755); err != nil {
			return nil, errors.Join(err, t.remove())
		}
		t.cgroups = append(t.cgroups, cgroup)
	}
	return t, nil
}

func readTunables() map[string]string {
	values := make(map[string]string)
	for name := range tunables {
		if value, err := os.ReadFile("/proc/sys/" + name); err == nil {
			values[name] = strings.TrimSpace(string(value))
		}
	}
	return values
}

// readDirectories returns which of the directories exist.
func readDirectories() map[string]bool {
	exists := make(map[string]bool)
	for _, name := range directories {
		if _, err := os.Stat(name); err == nil {
			exists[name] = true
		}
	}
	return exists
}

// cgroupMounts returns the mount point of each cgroup hierarchy.
func cgroupMounts() ([]string, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var mounts []string
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		of, kind, _ := strings.Cut(lines.Text(), " - ")
		if strings.HasPrefix(kind, "cgroup ") || strings.HasPrefix(kind, "cgroup2 ") {
			mounts = append(mounts, strings.Fields(of)[4])
		}
	}
	return mounts, lines.Err()
}

// remove removes directory and cgroups after the end of the cluster, and returns an error if
// anything else is left.
func (t *traces) remove() error {
	var errs []error
	for _, cgroup := range t.cgroups {
		errs = append(errs, removeCgroup(cgroup))
	}
	errs = append(errs, os.RemoveAll(t.dir))
	for name, value := range readTunables() {
		if was := t.parameters[name]; value != was {
			errs = append(errs, fmt.Errorf("kernel parameter %s is %s, was %s", name, value, was))
		}
	}
	for name := range readDirectories() {
		if !t.existed[name] {
			errs = append(errs, fmt.Errorf("%s was created", name))
		}
	}
	for _, file := range []string{"/proc/self/mountinfo", "/proc/self/cgroup"} {
		content, err := os.ReadFile(file)
		if strings.Contains(string(content), filepath.Base(t.dir)) {
			err = fmt.Errorf("%s still has %s", file, t.dir)
		}
		errs = append(errs, err)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range commands {
		if command, err := os.ReadFile(file); err == nil && strings.Contains(string(command), t.dir) {
			errs = append(errs, fmt.Errorf("still running: %q", command))
		}
	}
	return errors.Join(append(errs, err)...)
}

// removeCgroup removes a cgroup and its descendants. The kernel refuses until their ended
// processes are gone.
func removeCgroup(root string) error {
	var cgroups []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			cgroups = append(cgroups, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(cgroups)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var errs []error
		for _, cgroup := range cgroups {
			if err := os.Remove(cgroup); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		if errs == nil || time.Now().After(deadline) {
			return errors.Join(errs...)
		}
	}
}
