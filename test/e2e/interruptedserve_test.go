package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tcphup/test/kit/nstest"
)

// TestPrivilegedServeKilledAtEveryStep interrupts serve between the system calls of an action.
// After SIGKILL each flow is untouched or closed with a FIN, and the next instance closes
// the rest. After SIGTERM the action completes.
func TestPrivilegedServeKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		s := newFixture(t, 6)
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
				responses := make(chan string, 1)
				go func() {
					response, err := postAlert(t, s.target.addr())
					responses <- fmt.Sprint(response, " ", err)
				}()
				s.target.awaitEnded(s.ended + 1) // excludes the calls of the startup probe
				begun := callsIn(log)
				nstest.Eventually(t, "the action has made the calls", func() bool {
					_, ended := s.target.counts()
					return callsIn(log) >= begun+calls || ended == s.ended+len(s.fds)
				})
				_ = p.cmd.Process.Signal(signal)
				err := p.wait()
				response := <-responses
				untouched := s.mustBeIntact(when)
				if signal == syscall.SIGTERM && (err != nil || untouched != 0 || !strings.HasPrefix(response, "200 ")) {
					t.Errorf("%s: %v, %d flows untouched, response %s", when, err, untouched, response)
				}
				if untouched > 0 && untouched < len(s.fds) {
					halfway++
				}
				next := serveArmed(t, config)
				response, err = postAlert(t, s.target.addr())
				if err != nil || !strings.HasPrefix(response, "200 ") || untouched > 0 && !strings.Contains(response, fmt.Sprintf(`"closed":%d`, untouched)) {
					t.Errorf("%s: %d flows untouched, response of the next instance %s, %v", when, untouched, response, err)
				}
				s.finish(when)
				next.kill()
			}
		}
		if halfway < 2 {
			t.Errorf("%d interruptions between two flows, want at least 2", halfway)
		}
	})
}
