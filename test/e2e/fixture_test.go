package e2e

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// fixture is an application with flows to hang up and one bystander flow, which must stay
// open.
type fixture struct {
	t                 *testing.T
	app               *testapp.App
	target, bystander *backend
	fds               []int // descriptors of the flows to target
	other             int   // descriptor of the flow to bystander
	ended             int   // number of ended flows to target
}

func newFixture(t *testing.T, flows int) *fixture {
	t.Helper()
	s := &fixture{t: t, target: startBackend(t, "127.0.0.1:0"), bystander: startBackend(t, "127.0.0.2:0"), fds: make([]int, flows)}
	s.restart(testapp.Build(t))
	return s
}

// restart starts a new application with a bystander flow.
func (s *fixture) restart(binary string) {
	s.t.Helper()
	s.app = testapp.Start(s.t, binary)
	s.app.Call("ignore")
	s.other = s.app.Connect(s.bystander.addr(), false, false)
	s.bystander.awaitOpen(1)
}

// connect opens the flows to hang up.
func (s *fixture) connect() {
	s.t.Helper()
	for i := range s.fds {
		s.fds[i] = s.app.Connect(s.target.addr(), false, false)
	}
	s.target.awaitOpen(len(s.fds))
}

// args returns HOST and PORT of the flows to hang up.
func (s *fixture) args() []string {
	return []string{s.target.addr().Addr().String(), strconv.Itoa(int(s.target.addr().Port()))}
}

// mustBeIntact checks that each flow is untouched, socket options included, or closed with a
// FIN, and that the bystander is open. It returns the number of untouched flows.
func (s *fixture) mustBeIntact(when string) (untouched int) {
	s.t.Helper()
	for _, fd := range s.fds {
		switch got := s.app.Call("write %d", fd); got {
		case "write ok 1":
			untouched++
			if ms := userTimeout(s.t, s.app.PID(), fd); ms != 0 {
				s.t.Errorf("%s: TCP_USER_TIMEOUT of an untouched flow is %d ms", when, ms)
			}
		case "write EPIPE -1":
		default:
			s.t.Errorf("%s: flow of the application: %s", when, got)
		}
	}
	s.mustKeepBystander(when)
	return untouched
}

func (s *fixture) mustKeepBystander(when string) {
	s.t.Helper()
	if got := s.app.Call("write %d", s.other); got != "write ok 1" {
		s.t.Fatalf("%s: flow of the bystander: %s", when, got)
	}
	s.bystander.mustCount(1, 0)
}

// finish hangs up the remaining flows with a second run and closes all descriptors.
func (s *fixture) finish(when string) {
	s.t.Helper()
	r := tcphup(s.t, s.args()...)
	if r.exit != 0 {
		s.t.Fatalf("%s: second run: exit %d\n%s%s", when, r.exit, r.stdout, r.stderr)
	}
	s.ended += len(s.fds)
	s.target.awaitEnded(s.ended)
	s.target.mustCount(0, s.ended)
	for _, fd := range s.fds {
		if got := s.app.Call("recv %d", fd); got != "recv ok 0" {
			s.t.Errorf("%s: after the second run the application reads %s", when, got)
		}
		s.app.Call("close %d", fd)
	}
}

// userTimeout returns TCP_USER_TIMEOUT of another process's socket in milliseconds.
func userTimeout(t testing.TB, pid, fd int) int {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	own, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(own)
	ms, err := unix.GetsockoptInt(own, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

// tracing returns a command that runs tcphup under strace, which logs these calls to the file.
func tracing(t testing.TB, file, calls string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(need(t, "strace", "strace"), append([]string{"-D", "-f", "-o", file, "-e", "trace=" + calls, program.Path(t)}, args...)...)
}

// injecting returns a command that runs tcphup with an injected fault, see -e inject in
// strace(1).
func injecting(t testing.TB, file, fault string, args ...string) *exec.Cmd {
	t.Helper()
	calls, _, _ := strings.Cut(fault, ":")
	cmd := tracing(t, file, calls, args...)
	cmd.Args = append([]string{cmd.Args[0], "-e", "inject=" + fault}, cmd.Args[1:]...)
	return cmd
}

// runInjecting runs tcphup with an injected fault and waits for its exit.
func runInjecting(t testing.TB, fault string, args ...string) result {
	t.Helper()
	command := injecting(t, os.DevNull, fault, args...)
	return runProgram(t, nil, command.Path, command.Args[1:]...)
}

// awaitLog waits until the log of the process contains the text.
func awaitLog(t testing.TB, p *process, text string) {
	t.Helper()
	nstest.Eventually(t, "log has "+text, func() bool { return strings.Contains(p.logged(), text) })
}
