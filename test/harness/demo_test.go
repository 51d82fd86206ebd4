package harness

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// demo is the built demo and the state of the system before it ran.
type demo struct {
	binary string
	temp   string
	before []string
}

func newDemo(t *testing.T) *demo {
	t.Helper()
	d := &demo{binary: build(t, "demo"), temp: t.TempDir()}
	// An empty /dev/shm separates leftovers of the demo from other files.
	if err := unix.Mount("tmpfs", "/dev/shm", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	d.before = d.traces(t)
	return d
}

// command returns a command that runs the demo like `make demo`, in a process group of its
// own. The output goes to files, so Wait does not wait for children that hold a pipe.
func (d *demo) command(t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr func() string) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), d.binary, append([]string{"-tcphup=" + program.Path(t)}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "TMPDIR="+d.temp)
	open := func(name string) (*os.File, func() string) {
		file, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		return file, func() string {
			t.Helper()
			text, err := os.ReadFile(file.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
	}
	cmd.Stdout, stdout = open("stdout")
	cmd.Stderr, stderr = open("stderr")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, stdout, stderr
}

// traces lists possible leftovers: processes, mounts, network namespaces and devices,
// temporary files.
func (d *demo) traces(t *testing.T) (traces []string) {
	t.Helper()
	for _, p := range processes(t) {
		traces = append(traces, "process "+p)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line) // id parent device root mountpoint …
		traces = append(traces, "mount "+fields[0]+" on "+strings.TrimSuffix(fields[4], "//deleted"))
	}
	for _, command := range [][]string{{"ip", "netns", "list"}, {"ip", "-oneline", "link"}} {
		for line := range strings.Lines(nstest.Command(t, command...)) {
			traces = append(traces, "network "+line)
		}
	}
	for _, dir := range []string{d.temp, "/dev/shm"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			traces = append(traces, "file "+filepath.Join(dir, f.Name()))
		}
	}
	return traces
}

// checkNoTraces fails the test for each trace that is new. A missing one is no error: a
// mount of the host can end meanwhile.
func (d *demo) checkNoTraces(t *testing.T) {
	t.Helper()
	for _, trace := range d.traces(t) {
		if !slices.Contains(d.before, trace) {
			t.Errorf("the demo left: %s", trace)
		}
	}
}

// TestPrivilegedDemo checks that the demo succeeds, prints events in causal order and leaves
// no traces, and that docs/alertmanager.md shows its current output.
func TestPrivilegedDemo(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		d := newDemo(t)
		cmd, stdout, stderr := d.command(t, "-without=2s")
		err := cmd.Run()
		output := stdout()
		t.Log(output)
		if err != nil || stderr() != "" {
			t.Errorf("%v: %s", err, stderr())
		}
		d.checkNoTraces(t)

		_, acts, _ := strings.Cut(output, "\nWith tcphup:\n")
		with, rest, _ := strings.Cut(acts, "\nWithout tcphup:\n")
		without, summary, _ := strings.Cut(rest, "\n\n")
		checkOrder(t, with,
			"failover: the old site", "DNS: api.internal resolves to", "tcphup: 4 connections to a former address",
			"Prometheus: alert TcphupStaleSockets firing", "Alertmanager: received the alert", "Alertmanager: notified tcphup-192.0.2.11",
			"tcphup: hung up 4 connections: closed by shutdown, held by application", "Prometheus: alert TcphupStaleSockets resolved")
		checkOrder(t, with, "Alertmanager: notified", "application: first response from the new site",
			"application: all 4 connections on the new site, 0 errors logged", "Prometheus: alert TcphupStaleSockets resolved")
		checkOrder(t, without, "failover: the old site", "DNS: api.internal resolves to",
			"application: 4 of 4 connections still on the old site")
		if strings.Contains(without, "from the new site") {
			t.Errorf("without tcphup: %s", without)
		}
		const want = `^with tcphup:    on the new site after \d+\.\d s; the demoted site refused [1-9]\d* requests
without tcphup: still on the old site after 2\.0 s; the demoted site refused [1-9]\d* requests
$`
		if !regexp.MustCompile(want).MatchString(summary) {
			t.Errorf("summary: %q", summary)
		}

		const path = "../../docs/alertmanager.md"
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		number := regexp.MustCompile(` *\+?[0-9]+`)
		printed := strings.Split(number.ReplaceAllString(output, "0"), "\n")
		_, shown, _ := strings.Cut(string(page), "\nWith tcphup:\n")
		shown, _, _ = strings.Cut(shown, "```")
		if shown == "" {
			t.Errorf("%s does not show the demo", path)
		}
		for line := range strings.Lines(shown) {
			if line = strings.TrimSuffix(line, "\n"); !slices.Contains(printed, number.ReplaceAllString(line, "0")) {
				t.Errorf("%s shows a line that the demo does not print: %q", path, line)
			}
		}
	})
}

// checkOrder checks that the output has lines with these prefixes in this order, and that
// its times never decrease.
func checkOrder(t *testing.T, output string, lines ...string) {
	t.Helper()
	last := 0.0
	for line := range strings.Lines(output) {
		m := regexp.MustCompile(`^ *\+(\d+\.\d) s  (.*)`).FindStringSubmatch(line)
		if m == nil {
			t.Errorf("line without a time: %q", line)
			continue
		}
		at, err := strconv.ParseFloat(m[1], 64)
		if err != nil || at < last {
			t.Errorf("after %v s: %q", last, line)
		}
		last = at
		if len(lines) > 0 && strings.HasPrefix(m[2], lines[0]) {
			lines = lines[1:]
		}
	}
	if len(lines) > 0 {
		t.Errorf("lines missing or out of order: %q", lines)
	}
}

// TestPrivilegedDemoEnds checks that no process or mount survives the demo after a signal,
// and that errors name the cause.
func TestPrivilegedDemoEnds(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		d := newDemo(t)
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
			t.Run(sig.String(), func(t *testing.T) {
				cmd, _, stderr := d.command(t)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				nstest.Eventually(t, "the programs run", func() bool {
					all := strings.Join(processes(t), "\n")
					return strings.Contains(all, "(dnsmasq)") && strings.Contains(all, "(prometheus)")
				})
				// Ctrl-C signals the whole process group.
				if err := syscall.Kill(-cmd.Process.Pid, sig); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err == nil {
					t.Error("exit code 0")
				}
				if sig == syscall.SIGKILL {
					nstest.Eventually(t, "all processes have ended", func() bool { return len(processes(t)) == 0 })
				} else if got := stderr(); got != "demo: interrupted\n" {
					t.Errorf("stderr: %q", got)
				}
				d.checkNoTraces(t)
			})
		}

		unprivileged := &syscall.Credential{Uid: 65534, Gid: 65534}
		for _, tt := range []struct {
			name string
			args []string
			path string
			as   *syscall.Credential
			want string
		}{
			{name: "missing program", path: "/nowhere", want: "missing programs: dnsmasq ip prometheus prometheus-alertmanager ("},
			{name: "not root", path: os.Getenv("PATH"), as: unprivileged, want: "demo: must run as root"},
			{name: "program that ends", path: os.Getenv("PATH"), args: []string{"-tcphup=/bin/false"}, want: "false exited: exit status 1\n"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				cmd, _, stderr := d.command(t, tt.args...)
				cmd.Env = append(cmd.Env, "PATH="+tt.path)
				if tt.as != nil {
					cmd.SysProcAttr.Credential, cmd.Dir = tt.as, filepath.Dir(d.binary)
				}
				err := cmd.Run()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(stderr(), tt.want) {
					t.Errorf("%v, stderr: %q", err, stderr())
				}
				d.checkNoTraces(t)
			})
		}
	})
}
