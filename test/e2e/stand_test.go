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

// stand is an application with flows to be hung up and one that must live on,
// whatever happens to the program that hangs up.
type stand struct {
	t                 *testing.T
	app               *testapp.App
	victim, bystander *backend
	fds               []int // of the flows to victim
	other             int   // of the flow to bystander
	ended             int   // flows to victim that have had their end
}

func newStand(t *testing.T, flows int) *stand {
	t.Helper()
	s := &stand{t: t, victim: startBackend(t, "127.0.0.1:0"), bystander: startBackend(t, "127.0.0.2:0"), fds: make([]int, flows)}
	s.restart(testapp.Build(t))
	return s
}

// restart gives the stand a new application with the flow that must live on.
func (s *stand) restart(binary string) {
	s.t.Helper()
	s.app = testapp.Start(s.t, binary)
	s.app.Ask("ignore")
	s.other = s.app.Connect(s.bystander.addr(), false, false)
	s.bystander.awaitOpen(1)
}

// connect opens the flows to be hung up.
func (s *stand) connect() {
	s.t.Helper()
	for i := range s.fds {
		s.fds[i] = s.app.Connect(s.victim.addr(), false, false)
	}
	s.victim.awaitOpen(len(s.fds))
}

// args name the flows to be hung up.
func (s *stand) args() []string {
	return []string{s.victim.addr().Addr().String(), strconv.Itoa(int(s.victim.addr().Port()))}
}

// mustBeWhole fails the test unless each flow is as it was, down to its options, or
// has ended in order, and the bystander's lives. It returns how many are as they were.
func (s *stand) mustBeWhole(when string) (untouched int) {
	s.t.Helper()
	for _, fd := range s.fds {
		switch got := s.app.Ask("write %d", fd); got {
		case "write ok 1":
			untouched++
			if ms := userTimeout(s.t, s.app.PID(), fd); ms != 0 {
				s.t.Errorf("%s: a flow that was not shut down has a TCP_USER_TIMEOUT of %d ms", when, ms)
			}
		case "write EPIPE -1":
		default:
			s.t.Errorf("%s: the application's flow: %s", when, got)
		}
	}
	s.mustSpareBystander(when)
	return untouched
}

func (s *stand) mustSpareBystander(when string) {
	s.t.Helper()
	if got := s.app.Ask("write %d", s.other); got != "write ok 1" {
		s.t.Fatalf("%s: the bystander's flow: %s", when, got)
	}
	s.bystander.mustCount(1, 0)
}

// finish hangs up once more, which is to do the rest, and lets the application close.
func (s *stand) finish(when string) {
	s.t.Helper()
	r := tcphup(s.t, s.args()...)
	if r.exit != 0 {
		s.t.Fatalf("%s: the next run: exit %d\n%s%s", when, r.exit, r.stdout, r.stderr)
	}
	s.ended += len(s.fds)
	s.victim.awaitEnded(s.ended)
	s.victim.mustCount(0, s.ended)
	for _, fd := range s.fds {
		if got := s.app.Ask("recv %d", fd); got != "recv ok 0" {
			s.t.Errorf("%s: at last the application reads %s", when, got)
		}
		s.app.Ask("close %d", fd)
	}
}

// userTimeout returns TCP_USER_TIMEOUT of another process's socket.
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

// tracing is the program under test; which system calls it makes goes to the file.
func tracing(t testing.TB, file, calls string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(need(t, "strace", "strace"), append([]string{"-D", "-f", "-o", file, "-e", "trace=" + calls, program.Path(t)}, args...)...)
}

// injecting is the program under test, with something that befalls its system calls
// (strace(1), -e inject).
func injecting(t testing.TB, file, what string, args ...string) *exec.Cmd {
	t.Helper()
	calls, _, _ := strings.Cut(what, ":")
	cmd := tracing(t, file, calls, args...)
	cmd.Args = append([]string{cmd.Args[0], "-e", "inject=" + what}, cmd.Args[1:]...)
	return cmd
}

// runInjecting runs it to its end.
func runInjecting(t testing.TB, what string, args ...string) result {
	t.Helper()
	command := injecting(t, os.DevNull, what, args...)
	return runProgram(t, nil, command.Path, command.Args[1:]...)
}

// awaitLog waits until the program has logged a line with the text.
func awaitLog(t testing.TB, p *process, text string) {
	t.Helper()
	nstest.Eventually(t, "the log says "+text, func() bool { return strings.Contains(p.logged(), text) })
}
