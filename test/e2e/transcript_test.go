package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
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

// TestPrivilegedTranscripts compares the output with testdata/transcripts: on a terminal
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
					// On a busy machine an ACK may reach the peer after its socket has ended. The RST in
					// response removes TIME_WAIT, and the detail is another one.
					tr := new(transcript)
					for tries := 0; tries == 0 || tries < 5 && strings.Contains(tr.text.String(), "connection ended"); tries++ {
						tr = &transcript{site: s, view: v, rows: tt.rows}
						tt.run(tr)
						tr.disconnect()
					}
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

// command returns tcphup with the environment of the view.
func (tr *transcript) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program.Path(tr.t), args...)
	cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=")
	if !tr.color {
		cmd.Env = append(cmd.Env, "NO_COLOR=1")
	}
	return cmd
}

// run runs tcphup in the view, adds its output and returns it.
func (tr *transcript) run(args ...string) string {
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
	return output
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
