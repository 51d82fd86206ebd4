package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedSystemdService checks that the packaged service, run by systemd with the unit's
// restrictions, hangs up the flow of another user's process. With the shipped drop-in, it runs
// as the user of the application, has no capability, and leaves the user's shared memory.
func TestPrivilegedSystemdService(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		dist := t.TempDir()
		nstest.Command(t, "make", "--no-print-directory", "-C", "../..", "packages",
			"DIST="+dist, "BINARY="+dist+"/tcphup", "VERSION=1.2.3")
		root, _ := cleanRoot(t)
		prepareDpkg(t, root)
		packages, err := filepath.Glob(dist + "/*.deb")
		if err != nil || len(packages) != 1 {
			t.Fatalf("packages: %v, %v", packages, err)
		}
		nstest.Command(t, "dpkg", "--root="+root, "--install", packages[0])
		put(t, root, "etc/tcphup/token", token+"\n")
		put(t, root, "etc/default/tcphup", `TCPHUP_OPTIONS="--alerts.token-file=/etc/tcphup/token --audit.log-file=/var/log/tcphup/audit.log"`)
		// No dependencies on units of a complete machine.
		put(t, root, "etc/systemd/system/tcphup.service.d/alone.conf", "[Unit]\nDefaultDependencies=no\n[Service]\nStandardError=file:/log\n")
		put(t, root, "etc/systemd/system/network-online.target", "[Unit]\nDefaultDependencies=no\n")
		init := boot(t, root, "tcphup.service")
		t.Cleanup(func() {
			if t.Failed() {
				out, err := exec.Command("nsenter", "--target="+init, "--pid", "--mount", "--cgroup", "--root",
					"sh", "-c", "systemctl status --no-pager tcphup.service; cat /log").CombinedOutput()
				t.Logf("the service (%v):\n%s", err, out)
			}
		})
		awaitPage(t, "http://"+tcphupAddress+"/-/ready")

		for _, method := range []string{"shutdown", "destroy"} {
			if usable, ok := sample(t, `tcphup_method_usable{method="`+method+`"}`); !ok || usable != 1 {
				t.Errorf("%s is usable: %v, %v", method, usable, ok)
			}
		}
		mustHave(t, onlyProcess(t, "tcphup"), map[string]uint64{
			"CapEff": mask(unitCapabilities), "CapPrm": mask(unitCapabilities), "CapInh": 0, "CapAmb": 0, "CapBnd": mask(unitCapabilities), "NoNewPrivs": 1,
		})
		binary := testapp.Build(t)
		asApp := []string{"--target=" + init, "--pid", "--ipc", "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"}
		app := testapp.StartCommand(t, exec.Command("nsenter", append(asApp, binary)...))
		app.Call("ignore")
		hangUp := func() {
			t.Helper()
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			fd := app.Connect(server.Addr(), false, false)
			answer, err := postAlert(t, server.Addr())
			if err != nil || !strings.Contains(answer, `"closed":1`) {
				t.Errorf("response: %s, %v", answer, err)
			}
			if got := app.Call("recv %d", fd); got != "recv ok 0" {
				t.Errorf("application: %q", got)
			}
		}
		hangUp()
		// A hang-up by hand appends to the file of the service's user.
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		fd := app.Connect(server.Addr(), false, false)
		runAs(t, &syscall.SysProcAttr{Chroot: root}, "/usr/bin/tcphup", server.Addr().Addr().String(), strconv.Itoa(int(server.Addr().Port()))).mustExit(t, 0)
		if got := app.Call("recv %d", fd); got != "recv ok 0" {
			t.Errorf("application after a hang-up by hand: %q", got)
		}
		audit, err := os.ReadFile(filepath.Join(root, "var/log/private/tcphup/audit.log"))
		if err != nil || strings.Count(string(audit), `"event":"flow"`) != 2 || strings.Count(string(audit), `"user":{"uid":0`) != 3 {
			t.Errorf("audit log: %s, %v", audit, err)
		}
		nstest.Eventually(t, "the state is in the unit's state directory", func() bool {
			_, err := os.Stat(filepath.Join(root, "var/lib/private/tcphup", stateFile))
			return err == nil
		})

		// As the comments of the drop-in describe.
		nstest.Command(t, append([]string{"nsenter"}, append(asApp, "ipcmk", "--shmem=4096")...)...)
		put(t, root, "etc/passwd", "app:x:12345:12345::/:/bin/false\n")
		put(t, root, "etc/group", "app:x:12345:\n")
		for _, path := range []string{"etc/passwd", "etc/group"} {
			mustChmod(t, filepath.Join(root, path), 0o644)
		}
		mustChmod(t, filepath.Join(root, "etc/tcphup/token"), 0o640)
		if err := os.Chown(filepath.Join(root, "etc/tcphup/token"), 0, 12345); err != nil {
			t.Fatal(err)
		}
		dropIn, err := os.ReadFile(filepath.Join(root, "usr/share/doc/tcphup/deploy/user.conf"))
		if err != nil {
			t.Fatal(err)
		}
		put(t, root, "etc/systemd/system/tcphup.service.d/user.conf", string(dropIn))
		inside := []string{"nsenter", "--target=" + init, "--pid", "--mount", "--cgroup", "--root", "systemctl"}
		nstest.Command(t, append(inside, "daemon-reload")...)
		nstest.Command(t, append(inside, "restart", "tcphup.service")...)
		awaitPage(t, "http://"+tcphupAddress+"/-/ready")
		if usable, ok := sample(t, `tcphup_method_usable{method="shutdown"}`); !ok || usable != 1 {
			t.Errorf("shutdown is usable: %v, %v", usable, ok)
		}
		pid := onlyProcess(t, "tcphup")
		mustHave(t, pid, map[string]uint64{"CapEff": 0, "CapPrm": 0, "CapInh": 0, "CapAmb": 0, "CapBnd": 0, "NoNewPrivs": 1})
		if status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status"); err != nil || !strings.Contains(string(status), "\nUid:\t12345\t12345\t12345\t") {
			t.Errorf("user of the process: %s, %v", status, err)
		}
		hangUp()
		nstest.Command(t, append(inside, "stop", "tcphup.service")...)
		if left := nstest.Command(t, "nsenter", "--target="+init, "--ipc", "ipcs", "--shmems"); !strings.Contains(left, "4096") {
			t.Errorf("shared memory of the application after a stop of the unit: %s", left)
		}
	})
}

// boot runs systemd in the root directory, as init of new pid, ipc and cgroup namespaces, and
// returns its pid in the current namespace.
func boot(t *testing.T, root, unit string) string {
	t.Helper()
	need(t, "systemctl", "systemd")
	group := newGroup(t)
	for _, name := range []string{"run", "sys", "root", "home", "var/tmp"} {
		mkdir(t, filepath.Join(root, name))
	}
	if err := unix.Mount("tmpfs", root+"/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/sys", root+"/sys", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	// unshare --cgroup makes the current control group the root of the new namespace.
	const script = `set -e
echo $$ > "$2/cgroup.procs"
exec unshare --cgroup --ipc --mount --pid --fork --kill-child sh -c '
	set -e
	mount -t proc proc "$0/proc"
	mount -t cgroup2 cgroup2 "$0/sys/fs/cgroup"
	exec chroot "$0" /lib/systemd/systemd --system --unit="$1" --log-target=console --show-status=no
' "$0" "$1"`
	cmd := exec.Command("sh", "-c", script, root, unit, group)
	cmd.Env = append(os.Environ(), "container=test")
	startCommand(t, cmd)
	var init string
	nstest.Eventually(t, "systemd runs", func() bool {
		pid := strconv.Itoa(cmd.Process.Pid)
		children, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
		if init = strings.TrimSpace(string(children)); err != nil || init == "" {
			return false
		}
		name, err := os.ReadFile("/proc/" + init + "/comm")
		return err == nil && strings.TrimSpace(string(name)) == "systemd"
	})
	return init
}

// onlyProcess returns the pid of the only process with this name.
func onlyProcess(t *testing.T, name string) int {
	t.Helper()
	var found []int
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range names {
		if comm, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(comm)) == name {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, pid)
		}
	}
	if len(found) != 1 {
		t.Fatalf("processes named %s: %v", name, found)
	}
	return found[0]
}

// newGroup creates a control group in the unified hierarchy and removes it with its children
// at the end of the test.
func newGroup(t *testing.T) string {
	t.Helper()
	hierarchy := t.TempDir()
	if err := unix.Mount("cgroup2", hierarchy, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	group, err := os.MkdirTemp(hierarchy, "tcphup-systemd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nstest.Eventually(t, "the control group is empty", func() bool { return removeGroup(group) == nil })
		if err := unix.Unmount(hierarchy, 0); err != nil {
			t.Error(err)
		}
	})
	return group
}

func removeGroup(group string) error {
	inside, err := filepath.Glob(group + "/*/cgroup.procs")
	for _, procs := range inside {
		err = errors.Join(err, removeGroup(filepath.Dir(procs)))
	}
	return errors.Join(err, os.Remove(group))
}

func put(t *testing.T, root, path, content string) {
	t.Helper()
	path = filepath.Join(root, path)
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
