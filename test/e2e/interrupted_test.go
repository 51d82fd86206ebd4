package e2e

import (
	"cmp"
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

// TestPrivilegedKilledAtEveryStep interrupts the command between the system calls of a hang-up,
// by SIGKILL and SIGTERM. Each flow is then untouched or closed with a FIN, and the next run
// closes the rest.
func TestPrivilegedKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		s := newFixture(t, 6)
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
				untouched := s.mustBeIntact(when)
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
			t.Logf("%v at %d steps, %d of them between two flows", tt.signal, stopped, halfway)
			if stopped < 5 || halfway < 2 {
				t.Errorf("%v at %d steps, %d of them between two flows: too few", tt.signal, stopped, halfway)
			}
		}
	})
}

// signalAfter runs tcphup and signals it after at least that many of the system calls. It
// returns output and exit code, -1 after SIGKILL. over reports an exit before the signal.
func signalAfter(t *testing.T, many int, signal syscall.Signal, calls string, args []string) (out string, exit int, over bool) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "strace")
	p := startCommand(t, tracing(t, log, calls, append([]string{"--output=json"}, args...)...))
	made := -1
	for ; made < many && !p.hasExited(); time.Sleep(200 * time.Microsecond) {
		made = callsIn(log)
	}
	_ = p.cmd.Process.Signal(signal) // may have exited
	_ = p.wait()
	reapTracers(t)
	return p.logged(), p.cmd.ProcessState.ExitCode(), made < many
}

// reapTracers waits for ended tracers of strace -D, which init of the pid namespace has to
// reap: the test process. Otherwise each run has more processes to search, and more steps.
func reapTracers(t *testing.T) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		var pid, parent int
		stat, _ := os.ReadFile(file) // the process may have ended
		if n, _ := fmt.Sscanf(string(stat), "%d (strace) Z %d", &pid, &parent); n == 2 && parent == os.Getpid() {
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
	}
}

// callsIn counts the returned system calls in a log of strace.
func callsIn(log string) int {
	b, _ := os.ReadFile(log) // may not exist yet
	return strings.Count(string(b), " = ")
}

// mustReport checks that the report after SIGTERM has every flow, untouched ones as planned.
func mustReport(t *testing.T, when, out string, exit, flows, untouched int) {
	t.Helper()
	_, out, reported := strings.Cut(out, "{")
	if exit != 0 && !reported {
		if untouched != flows { // no report: no flow may be touched
			t.Errorf("%s: %d flows untouched without a report: %s", when, untouched, out)
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
		t.Errorf("%s: exit %d, %v of %d flows, %d untouched", when, exit, report.Outcomes, flows, untouched)
	}
}

// TestPrivilegedApplicationChangesAtEveryStep checks races with the application: before each
// system call of a hang-up, it exits, closes its socket or reuses the descriptor.
func TestPrivilegedApplicationChangesAtEveryStep(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		binary := testapp.Build(t)
		s := newFixture(t, 1)
		for _, call := range []string{"pidfd_open", "pidfd_getfd", "getpeername", "shutdown", "setsockopt"} {
			for _, change := range []string{"killed", "closed", "reused"} {
				when := change + " at " + call
				s.connect()
				log := filepath.Join(t.TempDir(), "strace")
				p := startCommand(t, injecting(t, log, call+":signal=SIGSTOP", append([]string{"--linger=1s"}, s.args()...)...))
				nstest.Eventually(t, "tcphup has stopped at "+call, func() bool {
					b, err := os.ReadFile(log)
					return err == nil && strings.Contains(string(b), "stopped by SIGSTOP")
				})
				switch change {
				case "killed":
					s.app.Kill()
				case "closed":
					s.app.Call("close %d", s.fds[0])
				case "reused":
					s.app.Call("dup2 %d %d", s.other, s.fds[0])
				}
				nstest.Eventually(t, "tcphup exits", func() bool {
					_ = p.cmd.Process.Signal(syscall.SIGCONT) // the injection stops it at every such call
					return p.hasExited()
				})
				if err := p.wait(); err != nil {
					t.Errorf("%s: %v: %s", when, err, p.logged())
				}
				// Only the chosen flow has ended, with a FIN.
				s.ended++
				s.target.awaitEnded(s.ended)
				s.target.mustCount(0, s.ended)
				if change == "killed" {
					s.bystander.awaitEnded(1)
					s.bystander = startBackend(t, "127.0.0.2:0")
					s.restart(binary)
					continue
				}
				s.mustKeepBystander(when)
				s.app.Call("close %d", s.fds[0])
			}
		}
	})
}

// TestPrivilegedSystemCallFaults checks failing and interrupted system calls: the error is
// reported, no other flow is closed, and the next run closes the rest.
func TestPrivilegedSystemCallFaults(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		s := newFixture(t, 3)
		// strace counts calls per thread: 1+2 is every second call of each thread, from its first.
		for _, tt := range []struct {
			inject, method string
			outcome        string // outcome of the affected flows; "" means no flow is affected
			whole          bool   // the action fails before its first flow
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
			{inject: "pidfd_getfd:error=EPERM:when=1+2", method: "shutdown", outcome: "refused", says: "seccomp profile"},
			{inject: "pidfd_getfd:error=ENOSYS", method: "shutdown", outcome: "refused", says: "Linux 5.6"},
			{inject: "getsockopt:error=ENOMEM", outcome: "failed", says: "cannot allocate memory"},
			{inject: "shutdown:error=ENOTCONN:when=1+2", outcome: "gone"},
			{inject: "shutdown:error=ENOBUFS:when=1+2", outcome: "failed", says: "no buffer space"},
			{inject: "setsockopt:error=ENOMEM", says: "set TCP_USER_TIMEOUT: cannot allocate memory"},
		} {
			s.connect()
			when := tt.inject + " " + tt.method
			r := runInjecting(t, tt.inject, append([]string{"--output=json", "--method=" + cmp.Or(tt.method, "auto")}, s.args()...)...)
			untouched := s.mustBeIntact(when)
			s.finish(when)
			if output := r.stdout + r.stderr; !strings.Contains(output, tt.says) {
				t.Errorf("%s: want %q:\n%s", when, tt.says, output)
			}
			if failed := tt.whole || tt.outcome == "failed" || tt.outcome == "refused"; failed != (r.exit == 1) {
				t.Errorf("%s: exit %d:\n%s%s", when, r.exit, r.stdout, r.stderr)
			}
			if tt.whole {
				if untouched != len(s.fds) || r.stdout != "" {
					t.Errorf("%s: %d flows untouched:\n%s", when, untouched, r.stdout)
				}
				continue
			}
			var report struct{ Outcomes map[string]int }
			if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
				t.Fatalf("%s: %v in %s%s", when, err, r.stdout, r.stderr)
			}
			if report.Outcomes[tt.outcome] != untouched || (untouched > 0) != (tt.outcome != "") {
				t.Errorf("%s: %v, %d flows untouched", when, report.Outcomes, untouched)
			}
		}
	})
}
