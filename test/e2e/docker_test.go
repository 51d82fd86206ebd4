package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// docker is a private Docker engine. It runs inside nstest.Run, so its processes and mounts
// end with the test.
type docker struct {
	t      *testing.T
	dir    string
	cgroup string
}

// startDocker starts an engine without networking and with the default seccomp profile. The
// cleanup checks that its processes, mounts and control groups are gone.
func startDocker(t *testing.T) *docker {
	t.Helper()
	need(t, "docker", "docker.io (and docker-cli where there is one)")
	// Hides the machine's own engine.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatalf("mount /run: %v", err)
	}
	dir, err := os.MkdirTemp("", "tcphup-docker")
	if err != nil {
		t.Fatal(err)
	}
	d := &docker{t: t, dir: dir, cgroup: filepath.Base(dir)}
	t.Cleanup(d.removeFiles)
	t.Cleanup(d.mustBeGone)
	engine := startProcess(t, need(t, "dockerd", "docker.io"), "--host=unix://"+dir+"/docker.sock",
		"--data-root="+dir+"/data", "--exec-root="+dir+"/exec", "--pidfile="+dir+"/pid", "--log-level=error",
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs",
		"--exec-opt=native.cgroupdriver=cgroupfs", "--cgroup-parent=/"+d.cgroup)
	t.Cleanup(func() {
		if err := engine.stop(); err != nil {
			t.Errorf("dockerd after SIGTERM: %v", err)
		}
	})
	nstest.Eventually(t, "dockerd answers", func() bool { return d.run("version").exit == 0 })
	return d
}

// mustBeGone checks that no process or mount of the engine remains.
func (d *docker) mustBeGone() {
	nstest.Eventually(d.t, "all processes of the engine and its containers have exited", func() bool {
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		return err == nil && !slices.ContainsFunc(stats, func(path string) bool {
			// Orphans stay zombies: this process is init and does not reap them.
			stat, err := os.ReadFile(path)
			_, state, _ := strings.Cut(string(stat), ") ")
			return err == nil && path != "/proc/1/stat" && !strings.HasPrefix(state, "Z")
		})
	})
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), d.dir) {
		d.t.Errorf("remaining mounts (%v):\n%s", err, mounts)
	}
}

func (d *docker) removeFiles() {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		groups, err := filepath.Glob(pattern + d.cgroup)
		if err != nil {
			d.t.Error(err)
		}
		for _, group := range groups {
			nstest.Eventually(d.t, "the control group is empty", func() bool { return os.Remove(group) == nil })
		}
	}
	if err := os.RemoveAll(d.dir); err != nil {
		d.t.Error(err)
	}
}

func (d *docker) command(args ...string) []string {
	return append([]string{"docker", "--host=unix://" + d.dir + "/docker.sock"}, args...)
}

// run runs a docker command.
func (d *docker) run(args ...string) result {
	d.t.Helper()
	args = d.command(args...)
	return runProgram(d.t, nil, args[0], args[1:]...)
}

// build builds an image from a Dockerfile and one binary, without a registry.
func (d *docker) build(dockerfile, name, binary string, args ...string) {
	d.t.Helper()
	context := d.t.TempDir()
	content, err := os.ReadFile(binary)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(context, filepath.Base(binary)), content, 0o755); err != nil {
		d.t.Fatal(err)
	}
	// The classic builder is part of the engine; BuildKit may not be installed.
	d.t.Setenv("DOCKER_BUILDKIT", "0")
	d.run(append(append([]string{"build", "--file=" + dockerfile, "--tag=" + name}, args...), context)...).mustExit(d.t, 0)
}

// inspect returns a property of a container or image.
func (d *docker) inspect(name, format string) string {
	d.t.Helper()
	r := d.run("inspect", "--format="+format, name)
	r.mustExit(d.t, 0)
	return strings.TrimSpace(r.stdout)
}

// container returns a command that runs a container, attached to its input and output. The
// container is removed at the end of the test.
func (d *docker) container(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	t.Cleanup(func() {
		remove := d.command("rm", "--force", name)
		if out, err := exec.Command(remove[0], remove[1:]...).CombinedOutput(); err != nil {
			t.Errorf("remove container: %v\n%s", err, out)
		}
	})
	args = d.command(append([]string{"run", "--interactive", "--network=none", "--name=" + name}, args...)...)
	return exec.Command(args[0], args[1:]...)
}
