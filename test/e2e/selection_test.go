package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// moveToCgroup moves an application to a cgroup of its own and returns its path.
func moveToCgroup(t *testing.T, app *testapp.App) string {
	t.Helper()
	root := "/sys/fs/cgroup/unified" // hybrid
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	namespace, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	group := filepath.Join(root, fmt.Sprintf("tcphup-e2e-%s-%d", strings.Trim(namespace, "net:[]"), app.PID()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		app.Kill()
		nstest.Eventually(t, "the cgroup is empty", func() bool { return os.Remove(group) == nil })
	})
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(app.PID())), 0); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(group, root)
}

// Each filter selects the same connections for list and for hangup, alone and with HOST.
func TestPrivilegedSelection(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		// The servers do not read, so they do not close after a FIN.
		four := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", NoRead: true})
		six := testapp.Serve(t, testapp.ServerConfig{Address: "[::1]:0", NoRead: true})
		port4, port6 := int(four.Addr().Port()), int(six.Addr().Port())
		binary := testapp.Build(t)
		one, two := testapp.Start(t, binary), testapp.Start(t, binary)
		cgroups := map[*testapp.App]string{}
		for i, app := range []*testapp.App{one, two} {
			app.Call("ignore")
			cgroups[app] = moveToCgroup(t, app)
			app.Call("rename %s", []string{"one", "two"}[i])
			app.Call("become %d", 65531+i)
		}
		fd := one.Connect(four.Addr(), false, false)
		six1 := one.Connect(six.Addr(), false, false)
		kept := two.Connect(four.Addr(), false, false)
		half := two.Connect(six.Addr(), false, false)
		two.Call("half %d", half)

		const oneFour, oneSix, twoFour, twoSix = "one 4", "one 6", "two 4", "two 6"
		name := func(command, remote string) string {
			if remote == six.Addr().String() {
				return command + " 6"
			}
			return command + " 4"
		}
		listed := func(t *testing.T, args []string) (names []string) {
			for _, f := range listJSON(t, append([]string{"--flows"}, args...)...).Flows {
				names = append(names, name(f.Command, f.Remote))
			}
			slices.Sort(names)
			return names
		}
		planned := func(t *testing.T, args []string) (names []string) {
			r := tcphup(t, append([]string{"--dry-run", "--output=json"}, args...)...)
			r.mustExit(t, 0)
			var report struct {
				Flows []struct{ Command, Remote string }
			}
			if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
				t.Fatal(err)
			}
			for _, f := range report.Flows {
				names = append(names, name(f.Command, f.Remote))
			}
			slices.Sort(names)
			return names
		}
		for _, tt := range []struct {
			args string
			want []string
		}{
			{"--pid=" + strconv.Itoa(one.PID()), []string{oneFour, oneSix}},
			{fmt.Sprintf("--pid=%d,%d", one.PID(), two.PID()), []string{oneFour, oneSix, twoFour, twoSix}},
			{"--command=two", []string{twoFour, twoSix}},
			{"--command=one --command=two", []string{oneFour, oneSix, twoFour, twoSix}},
			{"--uid=65531", []string{oneFour, oneSix}},
			{"--uid=root", nil},
			{"--cgroup=" + cgroups[two], []string{twoFour, twoSix}},
			{"--cgroup=" + cgroups[two] + "/below", nil},
			{"--command=one --uid=65532", nil},
			{"--command=one 127.0.0.1 0", []string{oneFour}},
			{fmt.Sprintf("--command=one :%d", port4), []string{oneFour}},
			{fmt.Sprintf("--command=one --port=%d-%d", port4, port4), []string{oneFour}},
			{fmt.Sprintf("127.0.0.1:%d", port4), []string{oneFour, twoFour}},
			{fmt.Sprintf("::1 127.0.0.1 %d,%d", port4, port6), []string{oneFour, oneSix, twoFour, twoSix}},
			{"127.0.0.1 ::1 1-65535 --source ::1", []string{oneSix, twoSix}},
			{"127.0.0.1 ::1 0 --state established", []string{oneFour, oneSix, twoFour}},
			{"127.0.0.1 ::1 0 --state FIN-WAIT-2", []string{twoSix}},
			{"127.0.0.1 ::1 0 --min-idle 1h", nil},
			{"127.0.0.1 ::1 0 --except 127.0.0.0/8", []string{oneSix, twoSix}},
		} {
			t.Run(tt.args, func(t *testing.T) {
				args := strings.Fields(tt.args)
				if got := listed(t, args); !slices.Equal(got, tt.want) {
					t.Errorf("list: %q, want %q", got, tt.want)
				}
				if got := planned(t, args); !slices.Equal(got, tt.want) {
					t.Errorf("hangup: %q, want %q", got, tt.want)
				}
			})
		}
		t.Run("counts", func(t *testing.T) {
			if l := listJSON(t, "--command=one"); len(l.Destinations) != 2 || l.LeftAlone != 0 {
				t.Errorf("%+v", l)
			}
			// The servers are in this process.
			pid := "--pid=" + strconv.Itoa(os.Getpid())
			r := tcphup(t, "list", pid)
			r.mustExit(t, 0)
			if want := "tcphup: no connection matches; 4 connections that this host accepted would match with --direction=inbound\n"; r.stderr != want {
				t.Errorf("list: %q, want %q", r.stderr, want)
			}
			if r := tcphup(t, "--dry-run", pid); !strings.Contains(r.stderr, "4 connections that this host accepted would match with --direction=inbound") {
				t.Errorf("hangup: %q", r.stderr)
			}
			for _, args := range [][]string{{"list", "127.0.0.1", "--command=nobody"}, {"--dry-run", "127.0.0.1", "0", "--command=nobody"}} {
				if r := tcphup(t, args...); !strings.Contains(r.stderr, "; 2 of other processes left alone") {
					t.Errorf("%q: %q", args, r.stderr)
				}
			}
			two.Call("inflight %d", kept)
			for _, args := range [][]string{{"list", "--command=one"}, {"--dry-run", "--command=one"}} {
				if r := tcphup(t, args...); !strings.Contains(r.stderr, "; 1 of unknown processes left alone") {
					t.Errorf("%q: %q", args, r.stderr)
				}
			}
		})
		t.Run("hangup", func(t *testing.T) {
			for _, args := range [][]string{{strconv.Itoa(port4)}, {"--port", strconv.Itoa(port4)}, {"--pid=" + strconv.Itoa(one.PID()), "12"}, {"--pid=", ":1"}} {
				tcphup(t, args...).mustExit(t, 2)
			}
			r := tcphup(t, "--command=one", "--linger=100ms", fmt.Sprintf(":%d", port4))
			r.mustExit(t, 0)
			if got := one.Call("recv %d", fd); got != "recv ok 0" {
				t.Errorf("application: %q", got)
			}
			if got := one.Call("write %d", six1); got != "write ok 1" {
				t.Errorf("connection to another port: %q", got)
			}
		})
	})
}
