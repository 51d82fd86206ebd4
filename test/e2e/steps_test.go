package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// The command is killed, or told to end, at every step on its way: between the system
// calls that a hang-up is made of. Every flow is then as it was or has ended in order,
// and the next run does the rest.
func TestPrivilegedKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		s := newStand(t, 6)
		for _, tt := range []struct {
			signal syscall.Signal
			calls  string
		}{
			{syscall.SIGKILL, "socket,sendmsg,getdents64,pidfd_open,pidfd_getfd,shutdown,setsockopt"},
			{syscall.SIGTERM, "pidfd_open,pidfd_getfd,shutdown,setsockopt"},
		} {
			stopped, halfway := 0, 0
			for step := 0; ; step += 2 {
				s.connect()
				when := fmt.Sprintf("%v after %d calls", tt.signal, step)
				out, exit, over := signalAfter(t, step, tt.signal, tt.calls, append([]string{"--rate=20"}, s.args()...))
				untouched := s.mustBeWhole(when)
				if tt.signal == syscall.SIGTERM {
					mustReport(t, when, out, exit, len(s.fds), untouched)
				}
				s.finish(when)
				if over {
					break
				}
				stopped++
				if untouched > 0 && untouched < len(s.fds) {
					halfway++
				}
			}
			t.Logf("%v at %d steps, at %d of them in the midst of the flows", tt.signal, stopped, halfway)
			if stopped < 5 || halfway < 2 {
				t.Errorf("%v at %d steps, %d of them halfway: too few", tt.signal, stopped, halfway)
			}
		}
	})
}

// signalAfter runs the program and sends it a signal once it has made so many of the
// system calls, or a few more. It returns its output and exit code, -1 if it was killed,
// and whether it was over before it came to so many.
func signalAfter(t *testing.T, many int, signal syscall.Signal, calls string, args []string) (out string, exit int, over bool) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "strace")
	p := startCommand(t, tracing(t, log, calls, append([]string{"--output=json"}, args...)...))
	made := -1
	for ; made < many && !p.hasExited(); time.Sleep(200 * time.Microsecond) {
		made = callsIn(log)
	}
	_ = p.cmd.Process.Signal(signal) // it may have ended
	_ = p.wait()
	return p.logged(), p.cmd.ProcessState.ExitCode(), made < many
}

// callsIn counts the system calls that have returned, of those that are traced.
func callsIn(log string) int {
	b, _ := os.ReadFile(log) // it may not be there yet
	return strings.Count(string(b), " = ")
}

// mustReport fails the test unless the report of a command that was told to end names
// every flow, and those that were not reached as such.
func mustReport(t *testing.T, when, out string, exit, flows, untouched int) {
	t.Helper()
	_, out, reported := strings.Cut(out, "{")
	if exit != 0 && !reported {
		if untouched != flows { // it had not come to a report, and to no flow either
			t.Errorf("%s: %d flows are untouched: %s", when, untouched, out)
		}
		return
	}
	var report struct{ Outcomes map[string]int }
	if err := json.NewDecoder(strings.NewReader("{" + out)).Decode(&report); err != nil {
		t.Fatalf("%s: %v in %s", when, err, out)
	}
	total := 0
	for _, n := range report.Outcomes {
		total += n
	}
	if total != flows || report.Outcomes["planned"] != untouched || (exit == 0) != (report.Outcomes["closed"] == flows) && untouched > 0 {
		t.Errorf("%s: exit %d, %v of %d flows, %d are untouched", when, exit, report.Outcomes, flows, untouched)
	}
}

// The application is gone, has closed its socket or uses its descriptor for another
// connection by the time of each step between the choice of a flow and its end.
func TestPrivilegedApplicationChangesAtEveryStep(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		binary := testapp.Build(t)
		s := newStand(t, 1)
		for _, call := range []string{"pidfd_open", "pidfd_getfd", "ioctl", "shutdown", "setsockopt"} {
			for _, change := range []string{"killed", "closed", "reused"} {
				when := change + " at " + call
				s.connect()
				log := filepath.Join(t.TempDir(), "strace")
				p := startCommand(t, injecting(t, log, call+":signal=SIGSTOP", append([]string{"--linger=1s"}, s.args()...)...))
				nstest.Eventually(t, "the program has stopped at "+call, func() bool {
					b, err := os.ReadFile(log)
					return err == nil && strings.Contains(string(b), "stopped by SIGSTOP")
				})
				switch change {
				case "killed":
					s.app.Kill()
				case "closed":
					s.app.Ask("close %d", s.fds[0])
				case "reused":
					s.app.Ask("dup2 %d %d", s.other, s.fds[0])
				}
				nstest.Eventually(t, "the program ends", func() bool {
					_ = p.cmd.Process.Signal(syscall.SIGCONT) // again, for it stops at every such call
					return p.hasExited()
				})
				if err := p.wait(); err != nil {
					t.Errorf("%s: %v: %s", when, err, p.logged())
				}
				// On the flow that was meant there was an end, in order, and nowhere else.
				s.ended++
				s.victim.awaitEnded(s.ended)
				s.victim.mustCount(0, s.ended)
				if change == "killed" {
					s.bystander.awaitEnded(1)
					s.bystander = startBackend(t, "127.0.0.2:0")
					s.restart(binary)
					continue
				}
				s.mustSpareBystander(when)
				s.app.Ask("close %d", s.fds[0])
			}
		}
	})
}

// The kernel refuses, or interrupts, one of the system calls. It is said, nothing is
// closed that should not be, and the next run does what this one could not.
func TestPrivilegedSystemCallFaults(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		s := newStand(t, 3)
		// Calls are counted for each thread by itself: 1+2 is the first of every one, and
		// every other that follows.
		for _, tt := range []struct {
			inject, method string
			outcome        string // of the flows that the fault befalls; "" means of none
			whole          bool   // the action fails before it comes to flows
			says           string
		}{
			{inject: "socket:error=EMFILE", whole: true, says: "too many open files"},
			{inject: "sendmsg:error=ENOBUFS", whole: true, says: "no buffer space"},
			{inject: "recvfrom:error=ENOBUFS", whole: true, says: "no buffer space"},
			{inject: "recvfrom:error=EINTR:when=1+2", says: "3 closed"},
			{inject: "getdents64:error=EIO", whole: true, says: "read /proc: input/output error"},
			{inject: "readlinkat:error=EIO:when=3", whole: true, says: "read descriptors of process"},
			{inject: "pidfd_open:error=EMFILE:when=1+2", outcome: "failed", says: "too many open files"},
			{inject: "pidfd_getfd:error=ENOMEM:when=1+2", outcome: "failed", says: "cannot allocate memory"},
			{inject: "pidfd_getfd:error=EPERM:when=1+2", method: "shutdown", outcome: "refused", says: "CAP_SYS_PTRACE"},
			{inject: "pidfd_getfd:error=ENOSYS", method: "shutdown", outcome: "refused", says: "Linux 5.6"},
			{inject: "ioctl:error=ENOMEM", outcome: "failed", says: "SIOCINQ"},
			{inject: "shutdown:error=ENOTCONN:when=1+2", outcome: "gone"},
			{inject: "shutdown:error=ENOBUFS:when=1+2", outcome: "failed", says: "no buffer space"},
			{inject: "setsockopt:error=ENOMEM", says: "set TCP_USER_TIMEOUT: cannot allocate memory"},
		} {
			s.connect()
			when := tt.inject + " " + tt.method
			r := runInjecting(t, tt.inject, append([]string{"--output=json", "--method=" + orAuto(tt.method)}, s.args()...)...)
			untouched := s.mustBeWhole(when)
			s.finish(when)
			if said := r.stdout + r.stderr; !strings.Contains(said, tt.says) {
				t.Errorf("%s: want %q:\n%s", when, tt.says, said)
			}
			if failed := tt.whole || tt.outcome == "failed" || tt.outcome == "refused"; failed != (r.exit == 1) {
				t.Errorf("%s: exit %d:\n%s%s", when, r.exit, r.stdout, r.stderr)
			}
			if tt.whole {
				if untouched != len(s.fds) || r.stdout != "" {
					t.Errorf("%s: %d flows are untouched:\n%s", when, untouched, r.stdout)
				}
				continue
			}
			var report struct{ Outcomes map[string]int }
			if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
				t.Fatalf("%s: %v in %s%s", when, err, r.stdout, r.stderr)
			}
			if report.Outcomes[tt.outcome] != untouched || (untouched > 0) != (tt.outcome != "") {
				t.Errorf("%s: %v, and %d flows are untouched", when, report.Outcomes, untouched)
			}
		}
	})
}

func orAuto(method string) string {
	if method == "" {
		return "auto"
	}
	return method
}
