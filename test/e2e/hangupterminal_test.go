package e2e

import (
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

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
			{"rate", "hanging up", []string{"--rate=0.5", "10.20.0.5", "5432"}},
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
