package e2e

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// piped runs serve with a small pipe as standard error and audit log, and returns the end to
// read from.
func piped(t *testing.T) (*exec.Cmd, *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	if _, err := unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program.Path(t), "serve", "--web.listen-address="+tcphupAddress, "--alerts.listen-address="+receiverAddress,
		"--watch-reconnect=0s", "--alerts.token-file="+writeFile(t, "token", token), "--audit.log-file=/dev/stderr",
		"--config.file="+policyFile(t, "    limits: {cooldown: 0s, breaker: {actions: 1000000}}"))
	cmd.Stderr = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	awaitPage(t, "http://"+tcphupAddress+"/-/ready")
	return cmd, reader
}

// mustExit stops serve and waits for its exit.
func mustExit(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	guard := time.AfterFunc(nstest.HangGuard, func() { _ = cmd.Process.Kill() })
	defer guard.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
}

// hangUpAll hangs up the flows of the fixture with an alert.
func (s *fixture) hangUpAll(t *testing.T) {
	t.Helper()
	s.connect()
	response, err := postAlert(t, s.target.addr())
	if err != nil || !strings.HasPrefix(response, "200 ") || !strings.Contains(response, `"done":1`) {
		t.Errorf("response %q, %v", response, err)
	}
	s.finish("with a pipe")
}

// TestPrivilegedLogReaderGone closes the pipe of log and audit. Alerts are still handled and
// answered, and the lost lines are counted.
func TestPrivilegedLogReaderGone(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		s := newFixture(t, 3)
		cmd, reader := piped(t)
		reader.Close()
		for range 3 {
			s.hangUpAll(t)
		}
		awaitSample(t, "tcphup_log_lines_dropped_total", 3*(3+1))
		awaitSample(t, "tcphup_audit_write_errors_total", 3*(3+2))
		mustExit(t, cmd)
	})
}

// TestPrivilegedLogReaderBlocked reads nothing from the pipe of log and audit until lines are
// dropped. Alerts are handled and answered meanwhile. The log then has the number of dropped
// lines, and serve ends when nothing is read again.
func TestPrivilegedLogReaderBlocked(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		s := newFixture(t, 3)
		cmd, reader := piped(t)
		fill := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), nstest.HangGuard)
			defer cancel()
			before, _ := sample(t, "tcphup_log_lines_dropped_total")
			lostBefore, _ := sample(t, "tcphup_audit_write_errors_total")
			nstest.Eventually(t, "lines of log and audit are dropped", func() bool {
				// Each of these alerts writes a line to both.
				for range 100 {
					request := notificationRequest(t, "http://"+receiverAddress+"/alerts", `"alertname":"Stale","destination":"192.0.2.1"`)
					if response, err := sendWithToken(request.WithContext(ctx)); err != nil || !strings.HasPrefix(response, "200 ") {
						t.Fatalf("response %q, %v", response, err)
					}
				}
				dropped, _ := sample(t, "tcphup_log_lines_dropped_total")
				lost, _ := sample(t, "tcphup_audit_write_errors_total")
				return dropped > before && lost > lostBefore
			})
		}
		fill()
		s.hangUpAll(t)

		if err := reader.SetReadDeadline(time.Now().Add(nstest.HangGuard)); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(reader)
		for log, audit := false, false; !log || !audit; {
			if !lines.Scan() {
				t.Fatalf("log: %v; message of the log: %v, of the audit: %v", lines.Err(), log, audit)
			}
			log = log || strings.Contains(lines.Text(), `msg="log is written again" dropped_lines=`)
			audit = audit || strings.Contains(lines.Text(), `msg="audit log is written again" dropped_records=`)
		}
		fill()
		mustExit(t, cmd)
	})
}
