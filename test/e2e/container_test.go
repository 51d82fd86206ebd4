package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// sidecar is a row of the table of rights in docs/sidecar.md and its expected result.
type sidecar struct {
	name     string // first column of the table
	user     string
	app      string // the application's user
	caps     []string
	profile  bool // the shipped seccomp profile, in place of Docker's
	ownPIDs  bool // pid namespace not shared with the application
	mptcp    bool
	method   string // method that auto selects; "" when the flow is refused
	shutdown bool   // usable according to the probe
	destroy  bool   // usable according to the probe
	missing  string // part of the refusal's detail
	fix      string // part of the probe's advice for shutdown
}

const (
	appUser  = "1000:1000"
	rootUser = "0:0"
)

var sidecars = []sidecar{
	{name: "the application's uid and gid", user: appUser, app: appUser, caps: []string{"SYS_PTRACE"}, shutdown: true, method: "shutdown"},
	{name: "the application's uid and gid", user: appUser, app: appUser, missing: "seccomp profile", fix: "seccomp profile"},
	{name: "the application's uid and gid, with the shipped seccomp profile", user: appUser, app: appUser, profile: true, shutdown: true, method: "shutdown"},
	{name: "the application's uid, another gid", user: "1000:1001", app: appUser, caps: []string{"SYS_PTRACE"}, missing: "uid and gid", fix: "uid and gid"},
	{name: "root, as does the application", user: rootUser, app: rootUser, caps: []string{"SYS_PTRACE"}, shutdown: true, method: "shutdown"},
	{name: "root", user: rootUser, app: appUser, caps: []string{"SYS_PTRACE"}, missing: "CAP_DAC_READ_SEARCH", fix: "CAP_DAC_READ_SEARCH"},
	{name: "root", user: rootUser, app: appUser, caps: []string{"SYS_PTRACE", "DAC_READ_SEARCH"}, shutdown: true, method: "shutdown"},
	{name: "root", user: rootUser, app: appUser, caps: []string{"SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"}, shutdown: true, destroy: true, method: "shutdown"},
	{name: "root", user: rootUser, app: appUser, caps: []string{"NET_ADMIN"}, destroy: true, method: "destroy", fix: "seccomp profile"},
	{name: "root; an MPTCP connection", user: rootUser, app: appUser, caps: []string{"NET_ADMIN"}, mptcp: true, destroy: true, missing: "not notify the application", fix: "seccomp profile"},
	{name: "another uid than root", user: appUser, app: appUser, caps: []string{"NET_ADMIN"}, missing: "CAP_NET_ADMIN", fix: "seccomp profile"},
	{name: "root, in a pid namespace of its own", user: rootUser, app: appUser, caps: []string{"SYS_PTRACE", "DAC_READ_SEARCH"}, ownPIDs: true, missing: "pid namespace", fix: "pid namespace"},
	{name: "root, in a pid namespace of its own", user: rootUser, app: appUser, caps: []string{"SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"}, ownPIDs: true, destroy: true, method: "destroy", fix: "pid namespace"},
}

// TestPrivilegedContainers checks that a sidecar container hangs up the flows of another
// container's application or names the missing right, and that the probe and the
// table of rights agree.
func TestPrivilegedContainers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		d := startDocker(t)
		d.build("../../Dockerfile", "tcphup", program.Path(t), "--target=prebuilt", "--build-arg=VERSION=1.2.3")
		app := testapp.BuildStatic(t)
		d.build(writeFile(t, "Dockerfile", "FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n"), "app", app)

		table := []string{"| runs as | capabilities | `shutdown` | `destroy` | `auto` comes to |", "| --- | --- | --- | --- | --- |"}
		for i, s := range sidecars {
			t.Run(fmt.Sprint(s.name, s.caps), func(t *testing.T) {
				if s.mptcp {
					nstest.NeedMPTCP(t)
				}
				table = append(table, s.try(t, d, fmt.Sprint("app", i)))
			})
		}
		t.Run("document", func(t *testing.T) {
			documented := slices.DeleteFunc(rightsTable(t, table[0]), func(row string) bool {
				return strings.Contains(row, "MPTCP") && !nstest.HasMPTCP()
			})
			if diff := cmp.Diff(table, documented); diff != "" {
				t.Errorf("table of rights (-containers +docs/sidecar.md):\n%s", diff)
			}
		})
		t.Run("commands of the document", func(t *testing.T) { runDocumented(t, d) })
		t.Run("image", func(t *testing.T) { checkImage(t, d) })
	})
}

// try runs an application and the sidecar and returns the resulting row of the table.
func (s *sidecar) try(t *testing.T, d *docker, name string) string {
	app := testapp.StartCommand(t, d.container(t, name, "--user="+s.app, "--cap-drop=ALL", "app"))
	app.Call("ignore") // SIGPIPE
	var server *testapp.Server
	nstest.NamespaceOf(t, d.inspect(name, "{{.State.Pid}}")).Do(func() {
		server = testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: s.mptcp})
	})
	fd := app.Connect(server.Addr(), false, s.mptcp)

	flags := s.flags(name)
	usable, fix := probeIn(t, d, flags)
	if usable["shutdown"] != s.shutdown || usable["destroy"] != s.destroy {
		t.Errorf("probe: %v, want shutdown %v, destroy %v", usable, s.shutdown, s.destroy)
	}
	if !strings.Contains(fix["shutdown"], s.fix) || !s.destroy && !strings.Contains(fix["destroy"], "CAP_NET_ADMIN") {
		t.Errorf("advice of the probe: %v, want %q for shutdown", fix, s.fix)
	}

	r := d.run(append(flags, "tcphup", "--output=json", "127.0.0.1", fmt.Sprint(server.Addr().Port()))...)
	f := onlyFlow(t, r)
	exit, outcome, write := 0, "closed", map[string]string{"shutdown": "write EPIPE -1", "destroy": "write ECONNABORTED -1"}[s.method]
	comesTo := s.method
	if s.method == "" {
		exit, outcome, write = 1, "refused", "write ok 1"
		comesTo = "refused, `" + f.Reason + "`"
	}
	if f.Outcome != outcome || r.exit != exit || s.method != "" && f.Method != s.method || !strings.Contains(f.Detail, s.missing) {
		t.Errorf("exit code %d, %+v, want %s by %q and a detail with %q", r.exit, f, outcome, s.method, s.missing)
	}
	if got := app.Call("write %d", fd); got != write {
		t.Errorf("application: %q, want %q", got, write)
	}
	caps := "none"
	if len(s.caps) > 0 {
		caps = strings.Join(s.caps, ", ")
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |", s.name, caps, yesOrNo(usable["shutdown"]), yesOrNo(usable["destroy"]), comesTo)
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// flags returns the docker run command of the sidecar, without image.
func (s *sidecar) flags(app string) []string {
	flags := []string{
		"run", "--rm", "--network=container:" + app, "--user=" + s.user, "--cap-drop=ALL",
		"--security-opt=no-new-privileges", "--read-only",
	}
	if !s.ownPIDs {
		flags = append(flags, "--pid=container:"+app)
	}
	if s.profile {
		flags = append(flags, "--security-opt=seccomp=../../deploy/kubernetes/acting-restricted/tcphup.json")
	}
	for _, c := range s.caps {
		flags = append(flags, "--cap-add="+c)
	}
	return flags
}

// probeIn runs the probe in a container and returns the result and the advice by check.
func probeIn(t *testing.T, d *docker, flags []string) (usable map[string]bool, fix map[string]string) {
	t.Helper()
	r := d.run(append(flags, "tcphup", "probe", "--output=json")...)
	var checks []struct {
		Name, Fix string
		Usable    bool
	}
	if err := json.Unmarshal([]byte(r.stdout), &checks); err != nil {
		t.Fatalf("%v in %s%s", err, r.stdout, r.stderr)
	}
	usable, fix = map[string]bool{}, map[string]string{}
	for _, c := range checks {
		usable[c.Name], fix[c.Name] = c.Usable, c.Fix
	}
	wantExit := 1
	if usable["shutdown"] || usable["destroy"] {
		wantExit = 0
	}
	r.mustExit(t, wantExit)
	return usable, fix
}

// rightsTable returns the lines of the table in docs/sidecar.md with this header.
func rightsTable(t *testing.T, header string) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/sidecar.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "\n"+header+"\n")
	rest, _, _ = strings.Cut(rest, "\n\n")
	return append([]string{header}, strings.Split(rest, "\n")...)
}

// runDocumented runs the commands of docs/sidecar.md for a container, with the image of the test
// in place of the one of make.
func runDocumented(t *testing.T, d *docker) {
	page, err := os.ReadFile("../../docs/sidecar.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```sh\n")
	block, _, _ = strings.Cut(block, "```")
	build, commands, _ := strings.Cut(block, "\n")
	dryRun := runProgram(t, nil, "bash", "-c", "cd ../.. && CONTAINER_TOOL=docker "+build+" --dry-run")
	if dryRun.mustExit(t, 0); !strings.HasPrefix(build, "make image") || !strings.Contains(dryRun.stdout, "-t tcphup .") {
		t.Errorf("%s: %s", build, dryRun.stdout)
	}
	testapp.StartCommand(t, d.container(t, "app", "--user="+appUser, "--cap-drop=ALL", "app")).Call("ignore")
	mountTmpfs(t, "/mnt", "mode=755")
	commands = strings.ReplaceAll(commands, "/etc/tcphup", "/mnt/tcphup")
	cmd := exec.Command("bash", "-ec", commands)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.dir+"/docker.sock")
	p := startCommand(t, cmd)
	nstest.Eventually(t, "the sidecar is armed", func() bool {
		select {
		case <-p.exited:
			t.Fatalf("%s: %s", commands, p.logged())
		default:
		}
		return strings.Contains(p.logged(), "mode=armed")
	})
}

// checkImage checks the image's metadata and runs it with its default command.
func checkImage(t *testing.T, d *docker) {
	if got := d.inspect("tcphup", "{{.Config.User}} {{.Config.Entrypoint}} {{.Config.Cmd}}"); got != "65534:65534 [/tcphup] [serve]" {
		t.Errorf("user, entry point and command: %s", got)
	}
	for label, want := range map[string]string{"title": "tcphup", "licenses": "MIT", "version": "1.2.3"} {
		if got := d.inspect("tcphup", `{{index .Config.Labels "org.opencontainers.image.`+label+`"}}`); got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
	startCommand(t, d.container(t, "served", "--cap-drop=ALL", "--read-only", "--health-interval=200ms", "tcphup"))
	nstest.Eventually(t, "the container is healthy", func() bool {
		r := d.run("inspect", "--format={{.State.Health.Status}}", "served")
		return strings.TrimSpace(r.stdout) == "healthy"
	})
	r := d.run("exec", "served", "/tcphup", "healthcheck", "http://127.0.0.1:1/")
	r.mustExit(t, 1)
}
