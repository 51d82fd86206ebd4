package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// dockerCapabilities are Docker's default capabilities of root.
var dockerCapabilities = []uint{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID,
	unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_SYS_CHROOT, unix.CAP_MKNOD, unix.CAP_AUDIT_WRITE, unix.CAP_SETFCAP,
}

// unitCapabilities are the capabilities granted by the systemd unit.
var unitCapabilities = []uint{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH, unix.CAP_NET_ADMIN}

// twoPolicies has one policy per method, selected by the address.
const twoPolicies = `policies:
- {name: shutdown, match: ['destination="127.0.0.1"'], allow: [127.0.0.1], method: shutdown}
- {name: destroy, match: ['destination="127.0.0.2"'], allow: [127.0.0.2], method: destroy}
`

// closedBy is the address that twoPolicies hangs up by method, and seen the result of the
// application's recv.
var (
	closedBy = map[string]netip.Addr{"shutdown": netip.MustParseAddr("127.0.0.1"), "destroy": netip.MustParseAddr("127.0.0.2")}
	seen     = map[string]string{"shutdown": "recv ok 0", "destroy": "recv ECONNABORTED -1"}
)

// TestPrivilegedDropped checks that a running tcphup has dropped all unneeded capabilities on
// every thread, and that hang-ups work with the rest.
func TestPrivilegedDropped(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		binary := testapp.Build(t)
		everything := allCapabilities(t)
		for _, tt := range []struct {
			name     string
			uid      int
			has      []uint // bounding set for root, else ambient set
			app      uint32 // user of the application
			appHas   []uint // bounding set of an application run by root
			exporter bool
			config   bool // exporter with a configuration file owned by root
			keeps    []uint
			bounding []uint
			closes   []string // methods that work
		}{
			{name: "root", has: everything, app: other, keeps: unitCapabilities, closes: []string{"shutdown", "destroy"}},
			{name: "root, exporter", has: everything, exporter: true},
			{name: "root with the manifests' capabilities", has: unitCapabilities, app: other, keeps: unitCapabilities, bounding: unitCapabilities, closes: []string{"shutdown", "destroy"}},
			{
				name: "container's root and SYS_PTRACE", has: append([]uint{unix.CAP_SYS_PTRACE}, dockerCapabilities...), app: other,
				keeps: []uint{unix.CAP_SYS_PTRACE, unix.CAP_DAC_OVERRIDE}, closes: []string{"shutdown"},
			},
			// ptrace access to a process with the same capabilities needs no CAP_SYS_PTRACE.
			{name: "container's root", has: dockerCapabilities, app: 0, appHas: dockerCapabilities, keeps: dockerCapabilities, closes: []string{"shutdown"}},
			{name: "container's root, exporter", has: dockerCapabilities, exporter: true},
			{
				name: "systemd unit, exporter with a file of root", uid: nobody, has: unitCapabilities, exporter: true, config: true,
				keeps: []uint{unix.CAP_DAC_READ_SEARCH}, bounding: everything,
			},
			{name: "systemd unit", uid: nobody, has: unitCapabilities, app: other, keeps: unitCapabilities, bounding: everything, closes: []string{"shutdown", "destroy"}},
			{name: "application's user", uid: other, app: other, bounding: everything, closes: []string{"shutdown"}},
			{name: "no rights", uid: nobody, app: other, bounding: everything},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0"})
				app := testapp.StartCommand(t, withCapabilities(int(tt.app), tt.appHas, binary))
				app.Call("ignore")
				args := []string{"serve", "--web.listen-address=" + tcphupAddress}
				if slices.Contains(tt.has, unix.CAP_NET_BIND_SERVICE) {
					args = append(args, "--web.listen-address=127.0.0.1:80")
				}
				if tt.config {
					args = append(args, "--config.file="+writeFile(t, "tcphup.yml", twoPolicies))
				}
				if tt.exporter {
					args = append(args, "--alerts.listen-address=")
				} else {
					token := writeFile(t, "token", token)
					mustGive(t, token, tt.uid)
					policies := writeFile(t, "tcphup.yml", twoPolicies)
					mustGive(t, policies, tt.uid)
					args = append(args, "--alerts.listen-address="+receiverAddress, "--alerts.token-file="+token, "--config.file="+policies)
				}
				p := startCommand(t, withCapabilities(tt.uid, tt.has, program.Path(t), args...))
				awaitPage(t, "http://"+tcphupAddress+"/-/ready")

				for _, method := range tt.closes {
					to := netip.AddrPortFrom(closedBy[method], server.Addr().Port())
					fd := app.Connect(to, false, false)
					answer, err := postAlert(t, to)
					if got := app.Call("recv %d", fd); err != nil || !strings.Contains(answer, `"closed":1`) || got != seen[method] {
						t.Errorf("%s: %s, %v; the application: %s", method, answer, err, got)
					}
				}
				mustHave(t, p.cmd.Process.Pid, map[string]uint64{
					"CapEff": mask(tt.keeps), "CapPrm": mask(tt.keeps), "CapInh": 0, "CapAmb": 0, "CapBnd": mask(tt.bounding), "NoNewPrivs": 1,
				})
				log, err := os.ReadFile(p.log)
				if none := strings.Contains(string(log), "capabilities=none"); err != nil || none != (tt.keeps == nil) {
					t.Errorf("log without the kept capabilities: %s, %v", log, err)
				}
			})
		}
	})
}

// TestPrivilegedHidden checks a sidecar that runs as the application's user: other processes of
// that user have no access to its environment, memory map, files or descriptors.
func TestPrivilegedHidden(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: other, Gid: other}}
		app := testapp.StartAs(t, testapp.Build(t), other)
		p := startProcessAs(t, as, program.Path(t), "serve", "--web.listen-address="+tcphupAddress, "--alerts.listen-address="+receiverAddress)
		awaitPage(t, "http://"+tcphupAddress+"/-/ready")
		for _, look := range [][]string{{"cat", "environ"}, {"cat", "maps"}, {"ls", "root/"}, {"ls", "fd"}} {
			of := func(pid int) int {
				return runAs(t, as, look[0], fmt.Sprintf("/proc/%d/%s", pid, look[1])).exit
			}
			if got := of(app.PID()); got != 0 {
				t.Errorf("%v of the application: exit code %d", look, got)
			}
			if got := of(p.cmd.Process.Pid); got == 0 {
				t.Errorf("%v of tcphup: readable", look)
			}
		}
		// Its own process metrics still work.
		if n, ok := sample(t, "process_open_fds"); !ok || n < 5 {
			t.Errorf("process_open_fds: %v, %v", n, ok)
		}
	})
}

// allCapabilities returns the capabilities of this process.
func allCapabilities(t *testing.T) []uint {
	t.Helper()
	bits := statusOf(t, "/proc/self/status")["CapPrm"]
	var all []uint
	for v := range uint(64) {
		if bits&(1<<v) != 0 {
			all = append(all, v)
		}
	}
	return all
}

func mask(capabilities []uint) uint64 {
	var bits uint64
	for _, v := range capabilities {
		bits |= 1 << v
	}
	return bits
}

// withCapabilities returns a command that runs as a user with these capabilities: as the
// bounding set of root, or as the ambient set of other users.
func withCapabilities(uid int, capabilities []uint, name string, args ...string) *exec.Cmd {
	var plus strings.Builder
	for _, v := range capabilities {
		fmt.Fprintf(&plus, ",+cap_%d", v)
	}
	id := strconv.Itoa(uid)
	flags := []string{"--reuid=" + id, "--regid=" + id, "--clear-groups"}
	if uid == 0 {
		flags = append(flags, "--bounding-set=-all"+plus.String())
	} else if len(capabilities) > 0 {
		flags = append(flags, "--inh-caps=-all"+plus.String(), "--ambient-caps=-all"+plus.String())
	}
	return exec.Command("setpriv", slices.Concat(flags, []string{name}, args)...)
}

// mustHave checks fields of /proc/PID/status for all threads of a process.
func mustHave(t *testing.T, pid int, want map[string]uint64) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads: %v, %v", threads, err)
	}
	for _, thread := range threads {
		status := statusOf(t, thread)
		for _, field := range slices.Sorted(maps.Keys(want)) {
			if status[field] != want[field] {
				t.Errorf("%s: %s is %#x, want %#x", thread, field, status[field], want[field])
			}
		}
	}
}

// statusOf returns the capability fields of a status file, see proc_pid_status(5).
func statusOf(t *testing.T, path string) map[string]uint64 {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]uint64{}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.HasPrefix(name, "Cap") || name == "NoNewPrivs" {
			if status[name], err = strconv.ParseUint(strings.TrimSpace(value), 16, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	return status
}
