package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// TestPrivilegedAuditByHand checks that a hang-up by hand appends to the audit file of serve,
// with its user and terminal, if the file exists and the user may write it.
func TestPrivilegedAuditByHand(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		const flows = 3
		s := newFixture(t, flows)
		host, port := s.target.addr().Addr().String(), strconv.Itoa(int(s.target.addr().Port()))
		if err := unix.Mount("none", "/var/log", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		const packaged = "/var/log/tcphup/audit.log"

		// Without the file nothing is written or printed.
		s.connect()
		r := tcphup(t, host, port)
		r.mustExit(t, 0)
		if _, err := os.Stat("/var/log/tcphup"); !errors.Is(err, os.ErrNotExist) || strings.Contains(r.stderr, "audit") {
			t.Errorf("without the file: %v, %s", err, r.stderr)
		}
		s.finish("without the file")

		if err := os.Mkdir("/var/log/tcphup", 0o755); err != nil {
			t.Fatal(err)
		}
		serveArmed(t, "--audit.log-file="+packaged)
		s.connect()
		if response, err := postAlert(t, s.target.addr()); err != nil || !strings.HasPrefix(response, "200 ") {
			t.Fatalf("response: %s, %v", response, err)
		}
		s.finish("by the alert")
		byAlert := auditRecords(t, packaged)

		// A dry run is not recorded.
		s.connect()
		tcphup(t, "--dry-run", host, port).mustExit(t, 0)
		if after := auditRecords(t, packaged); len(after) != len(byAlert) {
			t.Errorf("records of a dry run: %+v", after[len(byAlert):])
		}

		// A user who may not write the file gets a warning. The hang-up goes on; it is refused
		// because the connections belong to another user.
		nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
		r = runProgram(t, nobody, program.Path(t), host, port)
		r.mustExit(t, 1)
		if strings.Count(r.stderr, "warning: ") != 1 || !strings.Contains(r.stderr, packaged+": permission denied") || !strings.Contains(r.stderr, fmt.Sprintf("%d refused", flows)) {
			t.Errorf("as another user: %s", r.stderr)
		}
		if after := auditRecords(t, packaged); len(after) != len(byAlert) {
			t.Errorf("records of another user: %+v", after[len(byAlert):])
		}

		cmd := exec.Command(program.Path(t), host, port)
		cmd.Env = append(os.Environ(), "SUDO_USER=alice")
		onTerminal(t, cmd, 24, 80)
		tty, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", cmd.Stdin.(*os.File).Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if err := startCommand(t, cmd).wait(); err != nil {
			t.Fatal(err)
		}
		byHand := auditRecords(t, packaged)[len(byAlert):]
		s.finish("by hand")
		if len(byHand) != 1+flows+1 {
			t.Fatalf("%d records: %+v", len(byHand), byHand)
		}
		user := &userRecord{UID: 0, Login: "alice", Terminal: tty}
		if loginuid, err := os.ReadFile("/proc/self/loginuid"); err == nil && strings.TrimSpace(string(loginuid)) != "4294967295" {
			user.Login = byHand[0].User.Login // a session of this machine
		}
		for i, got := range byHand {
			want := record{Event: "flow", Action: byHand[0].Action, Destination: host, Port: port, User: user}
			switch i {
			case 0:
				want.Event, want.Flows = "begin", map[string]int{"planned": flows}
			case flows + 1:
				want.Event, want.Result, want.Flows = "end", "done", map[string]int{"closed": flows}
			default:
				want.Flow = &flowRecord{Remote: s.target.addr().String(), State: "established", Method: "shutdown", Outcome: "closed"}
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(record{}, "Time"), cmpopts.IgnoreFields(flowRecord{}, "Local", "Cookie", "IdleSeconds", "Detail", "Command", "PID", "TookSeconds")); diff != "" {
				t.Errorf("record %d (-want +got):\n%s", i, diff)
			}
		}
		if byHand[0].Action == "" || byHand[0].Action == byAlert[0].Action {
			t.Errorf("action %q", byHand[0].Action)
		}
	})
}

// TestPrivilegedAuditByHandKilled checks that a hang-up killed in the middle leaves the
// records of its beginning and of each flow that is done, and that serve, which starts
// afterwards, does not count it among the actions of alerts that did not end.
func TestPrivilegedAuditByHandKilled(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		const flows = 6
		s := newFixture(t, flows)
		s.connect()
		log := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p := startProcess(t, program.Path(t), "--rate=1", "--audit.log-file="+log, s.target.addr().Addr().String(), strconv.Itoa(int(s.target.addr().Port())))
		nstest.Eventually(t, "two flows are recorded", func() bool {
			content, err := os.ReadFile(log)
			return err == nil && strings.Count(string(content), `"event":"flow"`) >= 2
		})
		p.kill()
		before := auditRecords(t, log)
		if before[0].Event != "begin" || before[0].Flows["planned"] != flows || before[0].User == nil {
			t.Errorf("first record: %+v", before[0])
		}
		untouched := s.mustBeIntact("after the kill")
		if recorded := len(before) - 1; recorded < 2 || recorded > flows-untouched {
			t.Errorf("%d of %d flows are untouched, %d recorded", untouched, flows, recorded)
		}
		serveArmed(t, "--audit.log-file="+log)
		if after := auditRecords(t, log); len(after) != len(before) {
			t.Errorf("records of serve: %+v", after[len(before):])
		}
	})
}
