package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tcphup/test/kit/nstest"
)

// The service is killed, or told to end, at steps of an action that an alert has asked
// for. Killed, it leaves flows as they were or ended in order, and its successor does
// the rest; told to end, it does the rest itself.
func TestPrivilegedServeKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		s := newStand(t, 6)
		config := "--config.file=" + policyFile(t, "    limits: {rate: 20, cooldown: 0s}")
		args := []string{
			"serve", "--web.listen-address=" + tcphupAddress, "--alerts.listen-address=" + receiverAddress,
			"--watch-reconnect=0s", "--alerts.token-file=" + writeFile(t, "token", token), config,
		}
		halfway := 0
		for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			for calls := 0; calls < 4*(len(s.fds)-1); calls += 3 {
				when := fmt.Sprintf("%v after %d calls", signal, calls)
				s.connect()
				log := filepath.Join(t.TempDir(), "strace")
				p := startCommand(t, tracing(t, log, "pidfd_open,pidfd_getfd,shutdown,setsockopt", args...))
				awaitPage(t, "http://"+tcphupAddress+"/-/ready")
				answers := make(chan string, 1)
				go func() {
					answer, err := postAlert(t, s.victim.addr())
					answers <- fmt.Sprint(answer, " ", err)
				}()
				s.victim.awaitEnded(s.ended + 1) // so the calls of the self-test are over
				begun := callsIn(log)
				nstest.Eventually(t, "the action is under way", func() bool {
					_, ended := s.victim.counts()
					return callsIn(log) >= begun+calls || ended == s.ended+len(s.fds)
				})
				_ = p.cmd.Process.Signal(signal)
				err := p.wait()
				answer := <-answers
				untouched := s.mustBeWhole(when)
				if signal == syscall.SIGTERM && (err != nil || untouched != 0 || !strings.HasPrefix(answer, "200 ")) {
					t.Errorf("%s: %v, %d flows are untouched, the answer is %s", when, err, untouched, answer)
				}
				if untouched > 0 && untouched < len(s.fds) {
					halfway++
				}
				next := serveArmed(t, config)
				answer, err = postAlert(t, s.victim.addr())
				if err != nil || !strings.HasPrefix(answer, "200 ") || untouched > 0 && !strings.Contains(answer, fmt.Sprintf(`"closed":%d`, untouched)) {
					t.Errorf("%s: %d flows are untouched, the successor's answer is %s, %v", when, untouched, answer, err)
				}
				s.finish(when)
				next.kill()
			}
		}
		if halfway < 2 {
			t.Errorf("it was killed %d times in the midst of the flows", halfway)
		}
	})
}
