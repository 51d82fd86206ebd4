package e2e

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// listed is the part of list --output=json that the tests check.
type listed struct {
	Destinations []struct {
		Direction, Address string
		Port               uint16
		Sockets            int
		IdleP50            *float64 `json:"idle_p50_seconds"`
		IdleMax            *float64 `json:"idle_max_seconds"`
		Stalled            int
		KeepaliveArmed     int `json:"keepalive_armed"`
		MPTCPPaths         int `json:"mptcp_paths"`
		MPTCPPathless      int `json:"mptcp_pathless"`
	}
	Flows []struct {
		Local, Remote, Protocol, Direction, State, Timer, Command string
		PID                                                       int
		Idle                                                      *float64 `json:"idle_seconds"`
		Subflow, Pathless                                         bool
		SendQueue                                                 uint32 `json:"send_queue_bytes"`
	}
	LeftAlone int `json:"other_direction_left_alone"`
}

func listJSON(t *testing.T, args ...string) (l listed) {
	t.Helper()
	r := tcphup(t, append([]string{"list", "--output=json"}, args...)...)
	r.mustExit(t, 0)
	if err := json.Unmarshal([]byte(r.stdout), &l); err != nil {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	return l
}

// hostileCommand is a process name with an escape sequence that clears the screen.
const hostileCommand = "x\x1b[2J<b>&\"\u009b'y"

// shownCommand is hostileCommand after escaping, as in all output.
const shownCommand = `x\x1b[2J<b>&"\u009b'y`

// hostileApp starts the application as hostileCommand.
func hostileApp(t *testing.T, binary string) *testapp.App {
	t.Helper()
	path := filepath.Join(t.TempDir(), hostileCommand)
	if err := os.Link(binary, path); err != nil {
		t.Fatal(err)
	}
	return testapp.Start(t, path)
}

// TestPrivilegedList checks list with TCP and MPTCP flows: idle, stalled and inbound.
func TestPrivilegedList(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		var plain, multi, deaf *testapp.Server
		peer.Do(func() {
			plain = testapp.Serve(t, testapp.ServerConfig{Address: ":0"})
			multi = testapp.Serve(t, testapp.ServerConfig{Address: ":0", MPTCP: true})
			deaf = testapp.Serve(t, testapp.ServerConfig{Address: ":0", NoRead: true})
		})
		binary := testapp.Build(t)
		host := netip.MustParseAddr(nstest.Peer4)
		at := func(s *testapp.Server) string { return netip.AddrPortFrom(host, s.Addr().Port()).String() }
		app := hostileApp(t, binary)
		app.Call("ignore")
		talks := app.Connect(netip.AddrPortFrom(host, plain.Addr().Port()), false, false)
		app.Connect(netip.AddrPortFrom(host, plain.Addr().Port()), true, false)
		subflows := 0
		if nstest.HasMPTCP() {
			subflows = 2
		}
		fd := app.Connect(netip.AddrPortFrom(host, multi.Addr().Port()), false, subflows > 0)
		app.Call("write %d", fd)
		awaitSubflows(t, multi.Addr().Port(), max(subflows, 1))
		testapp.Start(t, binary).Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer6), plain.Addr().Port()), false, false)
		blocked := testapp.Start(t, binary)
		blocked.Block("send", blocked.Connect(netip.AddrPortFrom(host, deaf.Addr().Port()), false, false), unix.SYS_SENDTO)
		inbound := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		testapp.Start(t, binary).Connect(inbound.Addr(), false, false)

		t.Run("destinations", func(t *testing.T) {
			l := listJSON(t)
			got := make(map[string]string)
			for _, d := range l.Destinations {
				if d.Direction != "outbound" || d.IdleP50 == nil || d.IdleMax == nil || *d.IdleP50 > *d.IdleMax {
					t.Errorf("%+v", d)
				}
				got[netip.AddrPortFrom(netip.MustParseAddr(d.Address), d.Port).String()] = strconv.Itoa(d.Sockets) + " sockets, " + strconv.Itoa(d.MPTCPPaths) + " subflows"
			}
			want := map[string]string{
				at(plain): "2 sockets, 0 subflows",
				at(multi): "1 sockets, 0 subflows",
				at(deaf):  "1 sockets, 0 subflows",
				"[fd99::2]:" + strconv.Itoa(int(plain.Addr().Port())): "1 sockets, 0 subflows",
				inbound.Addr().String():                               "1 sockets, 0 subflows",
			}
			if subflows > 0 {
				want[at(multi)] = "1 sockets, 1 subflows"
				want[nstest.Peer4Two+":"+strconv.Itoa(int(multi.Addr().Port()))] = "1 sockets, 1 subflows"
			}
			for name, entry := range want {
				if got[name] != entry {
					t.Errorf("%s: %q, want %q", name, got[name], entry)
				}
			}
			if len(got) != len(want) || l.LeftAlone != 1 {
				t.Errorf("%d destinations, want %d; %d left alone, want 1: %v", len(got), len(want), l.LeftAlone, got)
			}
			for i := 1; i < len(l.Destinations); i++ {
				if *l.Destinations[i-1].IdleMax < *l.Destinations[i].IdleMax {
					t.Errorf("not sorted by idle time: %v", l.Destinations)
				}
			}
		})
		t.Run("one destination", func(t *testing.T) {
			port := strconv.Itoa(int(plain.Addr().Port()))
			r := tcphup(t, "list", nstest.Peer4, port)
			r.mustExit(t, 0)
			lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
			if len(lines) != 3 || !strings.HasPrefix(lines[0], "DESTINATION ") || !strings.HasPrefix(lines[1], at(plain)+" ") {
				t.Errorf("stdout:\n%s", r.stdout)
			}
			if r.stderr != "tcphup: 2 connections, 1 destination\n" {
				t.Errorf("stderr: %s", r.stderr)
			}
			r = tcphup(t, "list", "192.0.2.1")
			r.mustExit(t, 0)
			if r.stdout != "" || r.stderr != "tcphup: no connection matches\n" {
				t.Errorf("nothing matches: %q, %q", r.stdout, r.stderr)
			}
		})
		t.Run("inbound", func(t *testing.T) {
			r := tcphup(t, "list", "--direction=inbound")
			r.mustExit(t, 0)
			if !strings.Contains(r.stdout, "inbound at "+inbound.Addr().String()) || !strings.Contains(r.stderr, "outbound left alone (--direction=outbound or either)") {
				t.Errorf("%s%s", r.stdout, r.stderr)
			}
		})
		t.Run("flows", func(t *testing.T) {
			l := listJSON(t, "--flows", nstest.Peer4, "0")
			owned := 0
			for _, f := range l.Flows {
				switch {
				case f.PID == app.PID() && f.Command == shownCommand:
					owned++
				case f.PID != blocked.PID() || f.Remote != at(deaf) || f.SendQueue == 0:
					t.Errorf("%+v", f)
				}
				if f.Protocol != "tcp" || f.Subflow != (subflows > 0 && f.Remote == at(multi)) {
					t.Errorf("subflow: %+v", f)
				}
			}
			if len(l.Flows) != 4 || owned != 3 {
				t.Errorf("%d flows, %d of them of the application: %+v", len(l.Flows), owned, l.Flows)
			}
			r := tcphup(t, "list", "--flows", nstest.Peer4)
			r.mustExit(t, 0)
			if strings.Contains(r.stdout, "\x1b") || !strings.Contains(r.stdout, strconv.Itoa(app.PID())+"/"+shownCommand) {
				t.Errorf("stdout: %q", r.stdout)
			}
		})
		t.Run("without rights", func(t *testing.T) {
			r := runProgram(t, &syscall.Credential{Uid: nobody, Gid: nobody}, program.Path(t), "list", "--flows", nstest.Peer4)
			r.mustExit(t, 0)
			if strings.Count(r.stdout, "\n") != 6 || !strings.Contains(r.stderr, "could not be inspected") {
				t.Errorf("%s%s", r.stdout, r.stderr)
			}
		})
		t.Run("pathless", func(t *testing.T) {
			nstest.NeedMPTCP(t)
			for f := range strings.Lines(nstest.Command(t, "ss", "-Htn", "state", "established", "dport = :"+strconv.Itoa(int(multi.Addr().Port())))) {
				nstest.Command(t, "ss", "-HKtn", "src", strings.Fields(f)[2])
			}
			nstest.Eventually(t, "the connection is listed without a subflow", func() bool {
				for _, d := range listJSON(t).Destinations {
					if d.MPTCPPathless == 1 && d.MPTCPPaths == 0 && d.Sockets == 0 {
						return true
					}
				}
				return false
			})
			if r := tcphup(t, "list", "--flows", nstest.Peer4, strconv.Itoa(int(multi.Addr().Port()))); !strings.Contains(r.stdout, "pathless") {
				t.Errorf("%s%s", r.stdout, r.stderr)
			}
		})
		t.Run("usage", func(t *testing.T) {
			for _, args := range [][]string{{"no-such-host.invalid"}, {"127.0.0.1", "65536"}, {"--interval=1ms"}, {"--output=xml"}, {"10.0.0.1/8"}} {
				if r := tcphup(t, append([]string{"list"}, args...)...); r.exit != 2 || r.stdout != "" || r.stderr == "" {
					t.Errorf("%v: exit %d, %s%s", args, r.exit, r.stdout, r.stderr)
				}
			}
		})
		t.Run("stalled", func(t *testing.T) {
			// The link stays up: without a carrier no packet is sent, and the direction of a flow
			// with unsent data is unknown. The peer loses its address instead.
			nstest.Command(t, "ip", "-n", "peer", "addr", "del", nstest.Peer4+"/24", "dev", "one")
			app.Call("write %d", talks)
			nstest.Eventually(t, "an unanswered retransmission", func() bool {
				for _, d := range listJSON(t, nstest.Peer4, strconv.Itoa(int(plain.Addr().Port()))).Destinations {
					return d.Stalled == 1
				}
				return false
			})
		})
	})
}

// TestPrivilegedListOnTerminal checks colour, and that list --watch redraws one screen until q
// and then restores the terminal.
func TestPrivilegedListOnTerminal(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := hostileApp(t, binary)
		app.Connect(server.Addr(), false, false)
		command := func(args ...string) *exec.Cmd {
			cmd := exec.Command(program.Path(t), append([]string{"list"}, args...)...)
			cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=")
			return cmd
		}
		const bold = "\x1b[1mDESTINATION\x1b[0m"
		t.Run("colour", func(t *testing.T) {
			for _, variable := range []string{"NO_COLOR=", "NO_COLOR=1", "TERM=dumb"} {
				cmd := command()
				cmd.Env = append(cmd.Env, variable)
				screen := onTerminal(t, cmd, 24, 80)
				if err := cmd.Run(); err != nil {
					t.Fatal(err)
				}
				nstest.Eventually(t, "the list", func() bool { return strings.Contains(screen.text(), server.Addr().String()) })
				if got, want := strings.Contains(screen.text(), bold), variable == "NO_COLOR="; got != want {
					t.Errorf("%s: colour is %v, want %v: %q", variable, got, want, screen.text())
				}
			}
		})
		for _, key := range []string{"q", "\x03"} {
			t.Run("watch until "+strconv.Quote(key), func(t *testing.T) {
				cmd := command("--watch", "--interval=100ms", "--flows")
				screen := onTerminal(t, cmd, 24, 200)
				watch := startCommand(t, cmd)
				frames := func() int { return strings.Count(screen.text(), "\x1b[H") }
				nstest.Eventually(t, "three frames", func() bool { return frames() >= 3 })
				if screen.echoes(t) {
					t.Error("terminal echoes keys")
				}
				app.Connect(server.Addr(), false, false)
				want := strconv.Itoa(app.PID()) + "/" + shownCommand
				nstest.Eventually(t, "a new flow", func() bool {
					frame := screen.text()[strings.LastIndex(screen.text(), "\x1b[H"):]
					return strings.Contains(frame, "all 2: ") && strings.Contains(frame, "owner "+want)
				})
				if _, err := screen.keys.WriteString(key); err != nil {
					t.Fatal(err)
				}
				if err := watch.wait(); err != nil {
					t.Errorf("exit: %v", err)
				}
				nstest.Eventually(t, "the previous screen is restored", func() bool { return strings.HasSuffix(screen.text(), "\x1b[?1049l") })
				if text := screen.text(); !strings.HasPrefix(text, "\x1b[?1049h") || strings.Contains(text, "\x1b[2J") {
					t.Errorf("screen: %q", text)
				}
				if !screen.echoes(t) {
					t.Error("terminal not restored")
				}
			})
		}
		t.Run("small", func(t *testing.T) {
			cmd := command("--watch", "--interval=100ms", "--flows")
			screen := onTerminal(t, cmd, 3, 20)
			watch := startCommand(t, cmd)
			nstest.Eventually(t, "hidden lines are counted", func() bool { return strings.Contains(screen.text(), " more") })
			if err := watch.stop(); err != nil {
				t.Errorf("after SIGTERM: %v", err)
			}
			nstest.Eventually(t, "the previous screen is restored", func() bool { return strings.HasSuffix(screen.text(), "\x1b[?1049l") })
			if !screen.echoes(t) {
				t.Error("terminal not restored")
			}
		})
		t.Run("no terminal", func(t *testing.T) {
			watch := startCommand(t, command("--watch", "--interval=100ms"))
			header := regexp.MustCompile(`(?m)^DESTINATION +SOCKETS`)
			nstest.Eventually(t, "three lists", func() bool {
				b, err := os.ReadFile(watch.log)
				return err == nil && len(header.FindAll(b, -1)) >= 3 && !strings.Contains(string(b), "\x1b")
			})
			if err := watch.stop(); err != nil {
				t.Errorf("after SIGTERM: %v", err)
			}
		})
	})
}
