package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// netnsPod is an application in a network namespace. The addresses of the server are the
// same in each.
type netnsPod struct {
	label string // in the column NETNS
	app   *testapp.App
	fds   []int
}

var netnsServer = netip.MustParseAddrPort("127.0.0.1:4001")

// startNetnsPod starts a server and an application with connections to it, from port 41001
// on. Every test of a namespace ends with its process.
func startNetnsPod(t *testing.T, ns *nstest.Namespace, binary, label string, connections int) *netnsPod {
	t.Helper()
	p := &netnsPod{label: label}
	ns.Do(func() {
		testapp.Serve(t, testapp.ServerConfig{Address: netnsServer.String()})
		p.app = testapp.Start(t, binary)
	})
	p.app.Call("ignore")
	for i := range connections {
		var fd int
		answer := p.app.Call("bound %s %d %d", netnsServer.Addr(), netnsServer.Port(), 41001+i)
		if _, err := fmt.Sscanf(answer, "bound ok %d", &fd); err != nil {
			t.Fatal(answer)
		}
		p.fds = append(p.fds, fd)
	}
	return p
}

// mustAnswer checks the answer of the application for each of its connections.
func (p *netnsPod) mustAnswer(t *testing.T, command, want string) {
	t.Helper()
	for _, fd := range p.fds {
		if got := p.app.Call("%s %d", command, fd); got != want {
			t.Errorf("%s: %s %d: %q, want %q", p.label, command, fd, got, want)
		}
	}
}

// nameAsPod lets the cgroup of a process and the directory of pod logs show a pod.
func nameAsPod(t *testing.T, pid int, uid, namespace, name string) {
	t.Helper()
	bind(t, fmt.Sprintf("/proc/%d/cgroup", pid), "0::/kubepods/burstable/pod"+uid+"/"+strings.Repeat("0a", 32)+"\n")
	if err := os.MkdirAll(filepath.Join("/var/log/pods", namespace+"_"+name+"_"+uid), 0o755); err != nil {
		t.Fatal(err)
	}
}

// netnsFlows is the part of --output=json that the tests check.
type netnsFlows struct {
	Flows []struct {
		Netns, Command, Outcome, Reason string
		Local                           netip.AddrPort
		PID                             int
	}
	Destinations []struct {
		Netns   string
		Sockets int
	}
	Errors []struct{ Netns, Error string } `json:"netns_errors"`
}

func netnsJSON(t *testing.T, exit int, args ...string) (out netnsFlows, stderr string) {
	t.Helper()
	r := tcphup(t, append(args, "--output=json")...)
	r.mustExit(t, exit)
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	return out, r.stderr
}

// TestPrivilegedNetns lists and hangs up connections in 50 namespaces with the same
// addresses in each.
func TestPrivilegedNetns(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const number = 50
		if err := unix.Mount("tmpfs", "/var/log", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		binary := testapp.Build(t)
		var pods []*netnsPod
		total := 0
		for i := range number {
			name := fmt.Sprintf("ns%02d", i)
			ns := nstest.NewNamespace(t, name)
			p := startNetnsPod(t, ns, binary, name, 1+i%3)
			switch i % 5 {
			case 3:
				nameAsPod(t, p.app.PID(), fmt.Sprintf("0b6a3a7e-9c1f-4f0d-8a2b-0000000000%02d", i), "shop", "web-"+strconv.Itoa(i))
				p.label = "shop/web-" + strconv.Itoa(i)
			case 4:
				nstest.Command(t, "ip", "netns", "delete", name)
				p.label = ""
			}
			total += len(p.fds)
			pods = append(pods, p)
		}
		labels := func() map[string]*netnsPod {
			byLabel := make(map[string]*netnsPod)
			for _, p := range pods {
				if p.label == "" { // inode and process id
					var st unix.Stat_t
					if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", p.app.PID()), &st); err != nil {
						t.Fatal(err)
					}
					p.label = fmt.Sprintf("%d (pid %d)", st.Ino, p.app.PID())
				}
				byLabel[p.label] = p
			}
			return byLabel
		}()

		t.Run("no match", func(t *testing.T) {
			for _, args := range [][]string{{"list"}, {"127.0.0.1", "0"}} {
				r := tcphup(t, args...)
				r.mustExit(t, 0)
				if want := fmt.Sprintf("; %d other network namespaces have processes: --netns=all\n", number); !strings.HasSuffix(r.stderr, want) {
					t.Errorf("%v: %s", args, r.stderr)
				}
			}
		})
		t.Run("list", func(t *testing.T) {
			l, _ := netnsJSON(t, 0, "list", "--netns=all")
			for _, d := range l.Destinations {
				p := labels[d.Netns]
				if p == nil || d.Sockets != len(p.fds) {
					t.Errorf("got %+v", d)
				}
			}
			if len(l.Destinations) != number {
				t.Errorf("%d destinations, want one in each of %d namespaces", len(l.Destinations), number)
			}
		})
		t.Run("owners", func(t *testing.T) {
			l, _ := netnsJSON(t, 0, "list", "--netns=all", "--flows")
			for _, f := range l.Flows {
				if p := labels[f.Netns]; p == nil || f.PID != p.app.PID() || f.Command != "app" {
					t.Errorf("got %+v", f)
				}
			}
			if len(l.Flows) != total {
				t.Errorf("%d flows, want %d", len(l.Flows), total)
			}
		})
		t.Run("table", func(t *testing.T) {
			r := tcphup(t, "list", "--netns="+pods[3].label)
			r.mustExit(t, 0)
			lines := strings.Split(r.stdout, "\n")
			if len(lines) != 4 || !strings.HasPrefix(lines[0], "NETNS  ") || !strings.HasPrefix(lines[1], "shop/web-3  127.0.0.1:4001  ") {
				t.Errorf("got %s", r.stdout)
			}
		})

		hungUp := make(map[*netnsPod]bool)
		hangUp := func(t *testing.T, p *netnsPod, want string, args ...string) {
			t.Helper()
			hungUp[p] = true
			out, stderr := netnsJSON(t, 0, append(args, "127.0.0.1", "4001")...)
			if len(out.Flows) != len(p.fds) {
				t.Errorf("%v: %d flows, want %d: %s", args, len(out.Flows), len(p.fds), stderr)
			}
			for _, f := range out.Flows {
				if f.Outcome != "closed" || f.PID != p.app.PID() || f.Netns != p.label {
					t.Errorf("%v: %+v", args, f)
				}
			}
			p.mustAnswer(t, "recv", want)
			for _, other := range pods {
				if !hungUp[other] {
					other.mustAnswer(t, "write", "write ok 1")
				}
			}
		}
		t.Run("one", func(t *testing.T) {
			hangUp(t, pods[5], "recv ok 0", "--netns=ns05")
			hangUp(t, pods[6], "recv ECONNABORTED -1", "--netns=ns06", "--method=destroy")
			hangUp(t, pods[7], "recv ok 0", "--netns="+strconv.Itoa(pods[7].app.PID()))
			hangUp(t, pods[8], "recv ok 0", "--netns=shop/web-8")
			hangUp(t, pods[9], "recv ok 0", "--netns="+pods[9].label)
			left, _ := netnsJSON(t, 0, "--netns=own", "--dry-run", "127.0.0.1", "0")
			if len(left.Flows) != 0 {
				t.Errorf("own namespace: %+v", left)
			}
		})
		t.Run("wrong", func(t *testing.T) {
			for arg, want := range map[string]string{"": "--netns: empty", "unknown": "no network namespace", "0": "no process 0", "4194305": "no process 4194305", "web-3": "no network namespace"} {
				r := tcphup(t, "--netns="+arg, "127.0.0.1", "4001")
				if r.exit != 2 || !strings.Contains(r.stderr, want) {
					t.Errorf("%s: exit %d, %s", arg, r.exit, r.stderr)
				}
			}
		})
		t.Run("all", func(t *testing.T) {
			open := total
			for p := range hungUp {
				open -= len(p.fds)
			}
			out, _ := netnsJSON(t, 1, "--netns=all", "--max-flows="+strconv.Itoa(open-1), "127.0.0.1", "4001")
			for _, f := range out.Flows {
				if f.Outcome != "refused" || f.Reason != "budget" {
					t.Errorf("above the limit: %+v", f)
				}
			}
			for _, p := range pods {
				if !hungUp[p] {
					p.mustAnswer(t, "write", "write ok 1")
				}
			}
			out, _ = netnsJSON(t, 0, "--netns=all", "--max-flows="+strconv.Itoa(open), "127.0.0.1", "4001")
			if len(out.Flows) != open {
				t.Errorf("%d flows, want %d", len(out.Flows), open)
			}
			for _, f := range out.Flows {
				if p := labels[f.Netns]; f.Outcome != "closed" || p == nil || hungUp[p] || f.PID != p.app.PID() {
					t.Errorf("got %+v", f)
				}
			}
			for _, p := range pods {
				if !hungUp[p] {
					p.mustAnswer(t, "recv", "recv ok 0")
				}
			}
		})
	})
}

// TestPrivilegedNetnsAmbiguous checks that a name of two namespaces selects none of them.
func TestPrivilegedNetnsAmbiguous(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		if err := unix.Mount("tmpfs", "/var/log", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		const uid = "0b6a3a7e-9c1f-4f0d-8a2b-000000000000"
		binary := testapp.Build(t)
		var pods []*netnsPod
		for _, name := range []string{"pod", "nested"} {
			p := startNetnsPod(t, nstest.NewNamespace(t, name), binary, name, 1)
			nameAsPod(t, p.app.PID(), uid, "shop", "web-0")
			pods = append(pods, p)
		}
		for _, name := range []string{"shop/web-0", uid, strings.Repeat("0a", 32)} {
			r := tcphup(t, "--netns="+name, "127.0.0.1", "4001")
			if r.exit != 2 || !strings.Contains(r.stderr, "2 network namespaces match") {
				t.Errorf("%s: exit %d, %s", name, r.exit, r.stderr)
			}
		}
		for _, p := range pods {
			p.mustAnswer(t, "write", "write ok 1")
		}
		tcphup(t, "--netns=nested", "127.0.0.1", "4001").mustExit(t, 0)
		pods[0].mustAnswer(t, "write", "write ok 1")
		pods[1].mustAnswer(t, "recv", "recv ok 0")
		// A namespace with the name all has to be named by its path.
		for _, name := range []string{"all", "1"} {
			p := startNetnsPod(t, nstest.NewNamespace(t, name), binary, name, 1)
			for _, tt := range []struct{ netns, says string }{
				{name, "write --netns=/run/netns/" + name},
				{"/run/netns/none", "no file"},
				{"/dev/null", "no network namespace"},
			} {
				r := tcphup(t, "--netns="+tt.netns, "127.0.0.1", "4001")
				if r.exit != 2 || !strings.Contains(r.stderr, tt.says) {
					t.Errorf("%s: exit %d, %s, want %q", tt.netns, r.exit, r.stderr, tt.says)
				}
			}
			pods[0].mustAnswer(t, "write", "write ok 1")
			p.mustAnswer(t, "write", "write ok 1")
			tcphup(t, "--netns=/run/netns/"+name, "127.0.0.1", "4001").mustExit(t, 0)
			pods[0].mustAnswer(t, "write", "write ok 1")
			p.mustAnswer(t, "recv", "recv ok 0")
		}
	})
}

// TestPrivilegedNetnsProbe runs the self-test in a namespace.
func TestPrivilegedNetnsProbe(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		startNetnsPod(t, nstest.NewNamespace(t, "web"), testapp.Build(t), "web", 1)
		nstest.Command(t, "ip", "netns", "add", "down") // its loopback device is down
		r := tcphup(t, "probe", "--netns=web")
		r.mustExit(t, 0)
		if lines := strings.Split(r.stdout, "\n"); !strings.HasPrefix(lines[0], "web  dump_ipv4") {
			t.Errorf("got %s", r.stdout)
		}
		r = tcphup(t, "probe", "--netns=all", "--output=json")
		r.mustExit(t, 1)
		var checks []struct {
			Netns, Name string
			Usable      bool
		}
		if err := json.Unmarshal([]byte(r.stdout), &checks); err != nil {
			t.Fatal(err)
		}
		usable := make(map[string]bool)
		for _, c := range checks {
			if c.Name == "destroy" {
				usable[c.Netns] = c.Usable
			}
		}
		if len(usable) != 3 || !usable["own"] || !usable["web"] || usable["down"] {
			t.Errorf("destroy is usable: %v", usable)
		}
	})
}

// TestPrivilegedNetnsChurn lists all namespaces while others come and go: the ones that stay
// are complete each time.
func TestPrivilegedNetnsChurn(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		stable := startNetnsPod(t, nstest.NewNamespace(t, "stable"), binary, "stable", 2)
		unshare := need(t, "unshare", "util-linux")
		stop := make(chan struct{})
		var churn sync.WaitGroup
		defer churn.Wait()
		defer close(stop)
		for range 2 {
			churn.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if err := exec.Command(unshare, "--net", "true").Run(); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		for range 50 {
			l, stderr := netnsJSON(t, 0, "list", "--netns=all", "--flows")
			n := 0
			for _, f := range l.Flows {
				if f.Netns == "stable" && f.PID == stable.app.PID() {
					n++
				}
			}
			if n != len(stable.fds) || len(l.Flows) != n {
				t.Fatalf("got %+v: %s", l, stderr)
			}
			for _, e := range l.Errors {
				if !strings.Contains(e.Error, "namespace has ended") {
					t.Errorf("got %+v", e)
				}
			}
		}
	})
}
