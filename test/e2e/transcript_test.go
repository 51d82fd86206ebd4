package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// view is where a transcript is seen.
type view struct {
	name    string
	columns uint16 // 0: piped
	color   bool
}

var views = []view{
	{"80 columns, colour", 80, true},
	{"80 columns, NO_COLOR", 80, false},
	{"200 columns, colour", 200, true},
	{"piped", 0, false},
}

// transcript collects what commands print in a view.
type transcript struct {
	*site
	view
	rows uint16
	text strings.Builder
}

// TestPrivilegedTranscripts compares what a user sees with testdata/transcripts: on a terminal
// of 80 and of 200 columns, with colour and without, and in a pipe.
func TestPrivilegedTranscripts(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		s := newSite(t)
		for _, tt := range []struct {
			name string
			rows uint16
			run  func(*transcript)
		}{
			{"list", 24, func(tr *transcript) {
				tr.pools()
				tr.run("list")
				tr.run("list", "10.20.0.5", "5432")
				tr.run("list", "--sort=destination")
			}},
			{"list-flows", 24, func(tr *transcript) {
				tr.pools()
				tr.run("list", "--flows")
				tr.run("list", "--flows", "10.20.0.5", "5432")
				tr.run("list", "--flows", "2001:db8:20::5", "5432")
			}},
			{"hangup", 24, func(tr *transcript) {
				tr.pools()
				tr.run("--dry-run", "10.20.0.5", "5432")
				tr.run("10.20.0.5", "5432")
				tr.run("10.30.0.5", "5432")
				tr.run("2001:db8:20::5", "5432")
			}},
			{"half-closed", 24, func(tr *transcript) {
				for range 3 {
					tr.connect("java", "10.20.0.5:6432")
				}
				tr.run("list", "10.20.0.5")
				tr.run("--linger=200ms", "10.20.0.5", "6432")
				tr.run("list", "10.20.0.5")
				tr.run("10.20.0.5", "6432")
			}},
			{"watch", 16, func(tr *transcript) {
				tr.pools()
				for range 12 {
					tr.connect("java", "10.20.0.5:5432")
				}
				tr.watch("list", "--watch", "--interval=100ms", "--flows")
				tr.watch("list", "--watch", "--interval=100ms", "--sort=sockets")
			}},
			{"no-match", 24, func(tr *transcript) {
				tr.connect("java", "10.20.0.5:5432")
				tr.run("10.40.0.5", "5432")
				tr.run("list", "10.40.0.5")
				tr.database.Do(func() {
					tr.run("10.20.0.9", "5432")
					tr.run("list")
				})
			}},
			{"refused", 24, func(tr *transcript) {
				tr.connect("java", "10.20.0.5:5432")
				tr.connect("psql", "10.20.0.5:5432")
				tr.connect("psql", "10.30.0.5:5432")
				tr.run("--method=shutdown", "10.30.0.5", "5432")
				tr.run("--method=shutdown", "10.20.0.5", "10.30.0.5", "5432")
				tr.run("--max-flows=1", "10.20.0.5", "10.30.0.5", "5432")
			}},
			{"name-trap", 24, func(tr *transcript) {
				tr.connect("java", "10.20.0.5:5432")
				tr.connect("java", "10.20.0.5:5432")
				tr.connect("java", "10.30.0.5:5432")
				tr.run("db.internal", "5432")
				tr.run("10.20.0.5", "5432")
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				var all strings.Builder
				for _, v := range views {
					tr := &transcript{site: s, view: v, rows: tt.rows}
					tt.run(tr)
					tr.disconnect()
					fmt.Fprintf(&all, "== %s\n%s\n", v.name, tr.text.String())
				}
				file := filepath.Join("testdata", "transcripts", tt.name+".txt")
				if *update {
					if err := os.WriteFile(file, []byte(all.String()), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(all.String(), "\n")); diff != "" {
					t.Errorf("-update rewrites it (-want +got):\n%s", diff)
				}
			})
		}
	})
}

// site is a host 10.20.0.9 with applications, and a database at two IPv4 addresses and an IPv6
// address. Its peers close with the application on port 5432, and keep their side open on 6432.
type site struct {
	t        *testing.T
	binary   string
	database *nstest.Namespace
	apps     []*testapp.App
}

func newSite(t *testing.T) *site {
	s := &site{t: t, binary: testapp.Build(t), database: nstest.NewNamespace(t, "database")}
	bind(t, "/etc/hosts", "10.30.0.5 db.internal\n127.0.0.1 localhost\n")
	for _, command := range []string{
		"ip link add eth0 type veth peer name eth0 netns database",
		"ip addr add 10.20.0.9/24 dev eth0", "ip addr add 2001:db8:20::9/64 dev eth0 nodad",
		"ip -n database addr add 10.20.0.5/24 dev eth0", "ip -n database addr add 10.30.0.5/24 dev eth0",
		"ip -n database addr add 2001:db8:20::5/64 dev eth0 nodad",
		"ip link set eth0 up", "ip -n database link set eth0 up",
		"ip route add 10.30.0.0/24 dev eth0 src 10.20.0.9",
	} {
		nstest.Command(t, strings.Fields(command)...)
	}
	// Ports and process ids have the same number of digits in each run.
	for file, value := range map[string]string{"/proc/sys/net/ipv4/ip_local_port_range": "40000 40999", "/proc/sys/kernel/ns_last_pid": "10000"} {
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.database.Do(func() {
		testapp.Serve(t, testapp.ServerConfig{Address: ":5432"})
		testapp.Serve(t, testapp.ServerConfig{Address: ":6432", KeepOpen: true})
	})
	return s
}

// connect starts an application with this name and a connection.
func (s *site) connect(command, to string) *testapp.App {
	s.t.Helper()
	app := testapp.Start(s.t, s.binary)
	if got := app.Call("rename %s", command); got != "rename ok" {
		s.t.Fatal(got)
	}
	if command != "psql" {
		app.Call("ignore")
	}
	app.Connect(netip.MustParseAddrPort(to), false, false)
	s.apps = append(s.apps, app)
	s.awaitIdle()
	return app
}

// awaitIdle waits until the next connection is idle for a shorter time than the others.
func (s *site) awaitIdle() {
	s.t.Helper()
	nstest.Eventually(s.t, "idle times", func() bool {
		for _, f := range listJSON(s.t, "--flows").Flows {
			if f.Idle == nil || *f.Idle < 0.03 {
				return false
			}
		}
		return true
	})
}

// pools opens connections to all addresses of the database.
func (s *site) pools() {
	s.t.Helper()
	for _, to := range []string{"10.20.0.5:5432", "10.20.0.5:5432", "10.30.0.5:5432", "10.20.0.5:5432", "[2001:db8:20::5]:5432"} {
		s.connect("java", to)
	}
	s.connect("prometheus-adap", "10.30.0.5:5432")
}

// disconnect ends the applications and waits until no connection is left.
func (s *site) disconnect() {
	s.t.Helper()
	for _, app := range s.apps {
		app.Kill()
	}
	s.apps = nil
	nstest.Command(s.t, "ss", "-HKtn")
	nstest.Command(s.t, "ip", "netns", "exec", "database", "ss", "-HKtn")
	nstest.Eventually(s.t, "no connection", func() bool {
		l := listJSON(s.t, "--direction=either")
		s.database.Do(func() { l.Destinations = append(l.Destinations, listJSON(s.t, "--direction=either").Destinations...) })
		return len(l.Destinations) == 0
	})
}

// command returns tcphup with the environment of the view.
func (tr *transcript) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program.Path(tr.t), args...)
	cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=")
	if !tr.color {
		cmd.Env = append(cmd.Env, "NO_COLOR=1")
	}
	return cmd
}

// run runs tcphup in the view and adds what it shows.
func (tr *transcript) run(args ...string) {
	tr.t.Helper()
	cmd := tr.command(args...)
	var output string
	var err error
	if tr.columns == 0 {
		var both bytes.Buffer
		cmd.Stdout, cmd.Stderr = &both, &both
		err = cmd.Run()
		output = both.String()
	} else {
		screen := onTerminal(tr.t, cmd, tr.rows, tr.columns)
		cmd.Stderr = cmd.Stdout
		err = cmd.Run()
		output = shown(screen.finish(tr.t, cmd))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tr.t.Fatal(err)
	}
	tr.add(args, output)
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		fmt.Fprintf(&tr.text, "(exit code %d)\n", code)
	}
}

// watch runs list --watch in the view and adds the first frame; in a pipe, the first list.
func (tr *transcript) watch(args ...string) {
	tr.t.Helper()
	cmd := tr.command(args...)
	if tr.columns == 0 {
		p := startCommand(tr.t, cmd)
		nstest.Eventually(tr.t, "the first list", func() bool { return strings.Contains(p.logged(), "\n\n") })
		if err := p.stop(); err != nil {
			tr.t.Error(err)
		}
		first, _, _ := strings.Cut(p.logged(), "\n\n")
		tr.add(args, first+"\n")
		return
	}
	screen := onTerminal(tr.t, cmd, tr.rows, tr.columns)
	p := startCommand(tr.t, cmd)
	const home, below = "\x1b[H", "\x1b[J"
	nstest.Eventually(tr.t, "the first frame", func() bool { return strings.Contains(screen.text(), below) })
	if _, err := screen.keys.WriteString("q"); err != nil {
		tr.t.Fatal(err)
	}
	if err := p.wait(); err != nil {
		tr.t.Error(err)
	}
	_, frame, _ := strings.Cut(screen.text(), home)
	frame, _, _ = strings.Cut(frame, below)
	frame = shown(frame)
	if n := strings.Count(frame, "\n") + 1; n > int(tr.rows) {
		tr.t.Errorf("%v: %d lines on a screen of %d", args, n, tr.rows)
	}
	tr.add(args, frame+"\n")
}

// finish waits for all output of an ended command and returns it.
func (s *terminal) finish(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	const end = "end of the output"
	if _, err := cmd.Stdout.(*os.File).WriteString(end); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, "all output", func() bool { return strings.HasSuffix(s.text(), end) })
	return strings.TrimSuffix(s.text(), end)
}

// shown returns the lines of a terminal in the end: a carriage return begins to overwrite.
func shown(output string) string {
	lines := strings.Split(strings.ReplaceAll(output, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.ReplaceAll(line[strings.LastIndexByte(line, '\r')+1:], "\x1b[K", "")
	}
	return strings.Join(lines, "\n")
}

var (
	styles      = regexp.MustCompile("\x1b\\[[0-9;]*m")
	processID   = regexp.MustCompile(`\b1\d{4}/|process 1\d{4}\b`)
	digits      = regexp.MustCompile(`1\d{4}`)
	localPort   = regexp.MustCompile(`:40\d{3}\b`)
	clock       = regexp.MustCompile(`(\d{4}-\d\d-\d\dT)?\d\d:\d\d:\d\d([+-]\d\d:\d\d|Z)?`)
	elapsed     = regexp.MustCompile(`( *)\b\d+(\.\d)?s\b`)
	inTableCell = regexp.MustCompile(`^ {2,}`)
)

// add appends a command and its output without the values that differ between runs. Each line
// of a terminal fits its width.
func (tr *transcript) add(args []string, output string) {
	tr.t.Helper()
	for line := range strings.Lines(output) {
		plain := strings.TrimSuffix(styles.ReplaceAllString(line, ""), "\n")
		if n := utf8.RuneCountInString(plain); tr.columns > 0 && n > int(tr.columns) {
			tr.t.Errorf("%v: a line has %d columns in a terminal of %d: %s", args, n, tr.columns, plain)
		}
		if !tr.color && strings.Contains(line, "\x1b") {
			tr.t.Errorf("%v: control sequence without colour: %q", args, line)
		}
	}
	output = processID.ReplaceAllStringFunc(output, func(s string) string { return digits.ReplaceAllString(s, "10000") })
	output = localPort.ReplaceAllString(output, ":40000")
	output = clock.ReplaceAllString(output, "hh:mm:ss")
	output = elapsed.ReplaceAllStringFunc(output, func(s string) string {
		if inTableCell.MatchString(s) {
			return strings.Repeat(" ", len(s)-2) + "Ns"
		}
		return strings.TrimRight(s, "0123456789.s") + "Ns"
	})
	fmt.Fprintf(&tr.text, "$ tcphup %s\n%s", strings.Join(args, " "), strings.ReplaceAll(output, "\x1b", `\e`))
}

// A hang-up on a terminal prints its report before it watches for reconnects. Ctrl-C ends the
// watch with the exit code of the report. The last line has the reconnects; in a pipe there
// is no watch.
func TestPrivilegedReconnectsOnTerminal(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		s := newSite(t)
		for _, tt := range []struct {
			name string
			args []string
			next string // address that the application reconnects to
			last string
			exit int
		}{
			{"same", []string{"--watch-reconnect=1h"}, "10.20.0.5:5432", "\x1b[1;31mtcphup: reconnected to the same address 10.20.0.5 (1)\x1b[0m\n", 0},
			{"other", []string{"--watch-reconnect=1h"}, "10.30.0.5:5432", "tcphup: reconnected to 10.30.0.5 (1)\n", 0},
			{"interrupted", []string{"--watch-reconnect=1h"}, "", "tcphup: no reconnect seen in Ns (1)\n", 0},
			{"refused", []string{"--watch-reconnect=1h", "10.30.0.5"}, "", "tcphup: no reconnect seen in Ns (1)\n", 1},
			{"default", nil, "", "tcphup: no reconnect seen in 2s (1)\n", 0},
		} {
			t.Run(tt.name, func(t *testing.T) {
				defer s.disconnect()
				app := s.connect("java", "10.20.0.5:5432")
				s.connect("psql", "10.30.0.5:5432")
				cmd := exec.Command(program.Path(t), append(append([]string{"--method=shutdown"}, tt.args...), "10.20.0.5", "5432")...)
				cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=")
				screen := onTerminal(t, cmd, 24, 80)
				cmd.Stderr = cmd.Stdout
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				nstest.Eventually(t, "the report", func() bool { return strings.Contains(screen.text(), "tcphup: 1 closed") })
				switch {
				case tt.next != "":
					app.Connect(netip.MustParseAddrPort(tt.next), false, false)
				case tt.args != nil:
					nstest.Eventually(t, "the progress of the watch", func() bool { return strings.Contains(screen.text(), "watching for reconnects") })
					if _, err := screen.keys.WriteString("\x03"); err != nil {
						t.Fatal(err)
					}
				}
				_ = cmd.Wait()
				if got := cmd.ProcessState.ExitCode(); got != tt.exit {
					t.Errorf("exit code %d, want %d", got, tt.exit)
				}
				text := shown(screen.finish(t, cmd))
				if tt.args != nil {
					text = elapsed.ReplaceAllString(text, " Ns")
				}
				if !strings.HasSuffix(text, tt.last) {
					t.Errorf("last line is not %q: %q", tt.last, text)
				}
				if strings.Contains(text, "level=") || strings.Contains(text, "watching") {
					t.Errorf("log lines or progress: %q", text)
				}
			})
		}
	})
}

// On a terminal a hang-up that lasts shows its progress in one line, and erases it before the
// report.
func TestPrivilegedProgress(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		s := newSite(t)
		progress := regexp.MustCompile(`\rtcphup: [a-z ]+: \d+ done, \d+ left(, \d+s to go)?\x1b\[K`)
		for _, tt := range []struct {
			name, activity string
			args           []string
		}{
			{"rate", "hanging up", []string{"--rate=2", "10.20.0.5", "5432"}},
			{"drain", "waiting for connections to become quiet", []string{"--drain-deadline=4s", "--drain-quiet=4s", "10.20.0.5", "5432"}},
			{"linger", "waiting for the peers to close", []string{"--linger=4s", "10.20.0.5", "6432"}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				defer s.disconnect()
				for range 3 {
					s.connect("java", "10.20.0.5:5432")
					s.connect("java", "10.20.0.5:6432")
				}
				command := func(args ...string) *exec.Cmd {
					cmd := exec.Command(program.Path(t), args...)
					cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=1")
					return cmd
				}
				cmd := command(append([]string{"--watch-reconnect=0s"}, tt.args...)...)
				screen := onTerminal(t, cmd, 24, 80)
				cmd.Stderr = cmd.Stdout
				if err := cmd.Run(); err != nil {
					t.Error(err)
				}
				text := screen.finish(t, cmd)
				if !progress.MatchString(text) || !strings.Contains(text, "\rtcphup: "+tt.activity+":") {
					t.Errorf("no progress: %q", text)
				}
				if final := shown(text); strings.Contains(final, tt.activity) || !strings.HasPrefix(final, "LOCAL ") {
					t.Errorf("progress is left: %q", final)
				}
			})
		}
	})
}
