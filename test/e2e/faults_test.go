package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedStopped stops tcphup for two seconds during an action, which then completes.
// With Alertmanager stopped instead, the action continues and the response waits.
func TestPrivilegedStopped(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const flows, pause = 40, 2 * time.Second
		for _, name := range []string{"tcphup", "alertmanager"} {
			t.Run(name, func(t *testing.T) {
				s := newFixture(t, flows)
				s.connect()
				served := serveArmed(t, "--config.file="+policyFile(t, "    limits: {rate: 10}"))
				am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", interval: "5m", token: token})
				am.post(alertAbout(s.target.addr()))
				s.target.awaitEnded(flows / 8)
				stopped := map[string]*process{"tcphup": served, "alertmanager": am.process}[name].cmd.Process
				signal := func(signal syscall.Signal) {
					if err := stopped.Signal(signal); err != nil {
						t.Fatal(err)
					}
				}
				signal(syscall.SIGSTOP)
				awaitStopped(t, stopped.Pid)
				before := establishedTo(t, s.target)
				time.Sleep(pause) // length of the stop; no assertion depends on it
				if after := establishedTo(t, s.target); name == "tcphup" && (after != before || before == 0) {
					t.Errorf("%d flows open at the stop and %d after it", before, after)
				}
				signal(syscall.SIGCONT)
				s.target.awaitEnded(flows)
				awaitSample(t, alertsWith("done"), 1)
				awaitSample(t, answered200, 1)
				mustSample(t, flowsClosed, flows)
				s.target.mustCount(0, flows)
				s.mustKeepBystander("after the stop")
			})
		}
	})
}

// awaitStopped waits until each thread of a process has stopped.
func awaitStopped(t *testing.T, pid int) {
	t.Helper()
	nstest.Eventually(t, "the process has stopped", func() bool {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return err == nil && !slices.ContainsFunc(stats, func(path string) bool {
			stat, err := os.ReadFile(path)
			return err == nil && !strings.Contains(string(stat), ") T ")
		})
	})
}

// TestPrivilegedSenderResets checks a sender that resets its connection during the action: the
// next notification closes the remaining flows, and no descriptor or goroutine leaks.
func TestPrivilegedSenderResets(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const flows = 40
		s := newFixture(t, flows)
		s.connect()
		serveArmed(t, "--watch-reconnect=0s", "--config.file="+policyFile(t, "    limits: {rate: 10, cooldown: 0s}"))
		const fds, goroutines = "process_open_fds", "go_goroutines"
		mustSample(t, alertsWith("done"), 0)
		fdsBefore, _ := sample(t, fds)
		goroutinesBefore, _ := sample(t, goroutines)

		request := alertRequest(t, "http://"+receiverAddress+"/alerts", s.target.addr())
		request.Header.Set("Authorization", "Bearer "+token)
		var wire bytes.Buffer
		if err := request.Write(&wire); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", receiverAddress)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(wire.Bytes()); err != nil {
			t.Fatal(err)
		}
		s.target.awaitEnded(flows / 8)
		if err := conn.(*net.TCPConn).SetLinger(0); err != nil { // close sends RST
			t.Fatal(err)
		}
		conn.Close()
		awaitSample(t, alertsWith("unfinished"), 1)
		mustSample(t, answered503, 1)
		nstest.Eventually(t, "all hung-up flows have ended", func() bool {
			_, ended := s.target.counts()
			return float64(ended) == hungUp(t)
		})
		_, before := s.target.counts()
		if before == 0 || before >= flows {
			t.Fatalf("%d of %d flows hung up before the reset", before, flows)
		}
		s.target.mustCount(flows-before, before)

		answer, err := postAlert(t, s.target.addr())
		if err != nil || !strings.HasPrefix(answer, "200 ") || !strings.Contains(answer, fmt.Sprintf(`"closed":%d`, flows-before)) {
			t.Errorf("next response: %q, %v, want %d closed", answer, err, flows-before)
		}
		s.target.awaitEnded(flows)
		s.target.mustCount(0, flows)
		s.mustKeepBystander("after the reset")
		http.DefaultClient.CloseIdleConnections()
		nstest.Eventually(t, "descriptors and goroutines are released", func() bool {
			f, _ := sample(t, fds)
			g, _ := sample(t, goroutines)
			return f <= fdsBefore && g <= goroutinesBefore
		})
	})
}

// TestPrivilegedDescriptorTableFull checks a full descriptor table: scrapes and alerts report
// the failure, flows are untouched or closed with a FIN, and the next alert succeeds once
// descriptors are available.
func TestPrivilegedDescriptorTableFull(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		s := newFixture(t, 4)
		served := serveArmed(t, "--watch-reconnect=0s", "--config.file="+policyFile(t, "    limits: {cooldown: 0s, breaker: {actions: 1000}}"))
		const success, fds = `tcphup_scrape_success{source="tcp"}`, "process_open_fds"
		mustSample(t, success, 1)
		if _, err := postAlert(t, s.target.addr()); err != nil { // opens the keep-alive connection
			t.Fatal(err)
		}
		before, _ := sample(t, fds)
		failed, blind := 0, 0
		for free := range 10 {
			s.connect()
			lift := nstest.LimitDescriptors(t, served.cmd.Process.Pid, free)
			if value, ok := sample(t, success); ok && value == 0 {
				blind++
			}
			answer, err := postAlert(t, s.target.addr())
			if err != nil {
				t.Fatal(err)
			}
			when := fmt.Sprintf("%d free descriptors: %s", free, answer)
			untouched := s.mustBeIntact(when)
			if untouched > 0 {
				failed++
			}
			if reported := !strings.Contains(answer, fmt.Sprintf(`"closed":%d`, len(s.fds))); reported != (untouched > 0) {
				t.Errorf("%d flows untouched; %s", untouched, when)
			}
			lift()
			if untouched > 0 {
				if !strings.HasPrefix(answer, "503 ") {
					t.Errorf("want 503: %s", when)
				}
				answer, err := postAlert(t, s.target.addr())
				if err != nil || !strings.HasPrefix(answer, "200 ") || !strings.Contains(answer, fmt.Sprintf(`"closed":%d`, untouched)) {
					t.Errorf("next response: %q, %v", answer, err)
				}
			}
			s.finish(when)
			mustSample(t, success, 1)
		}
		t.Logf("with up to 9 free descriptors %d scrapes and %d alerts failed", blind, failed)
		if failed == 0 || blind == 0 || failed == 10 {
			t.Error("limits too low or too high to cover both results")
		}
		if !strings.Contains(served.logged(), "too many open files") {
			t.Error("error not logged")
		}
		s.mustKeepBystander("at last")
		nstest.Eventually(t, "descriptors are released", func() bool { now, _ := sample(t, fds); return now <= before })
	})
}

// TestPrivilegedMemory checks that resident memory stays below 64 MiB with 12,400 connections,
// repeated scrapes and hang-ups.
func TestPrivilegedMemory(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const limit, others = 64 << 10, 12400 // kB, connections
		s := newFixture(t, 100)
		addr, _ := testapp.Load(t, testapp.Build(t), s.bystander.addr().Addr(), others)
		served := serveArmed(t, "--watch-reconnect=1s", "--config.file="+policyFile(t, "    limits: {cooldown: 0s, breaker: {actions: 1000}}"))
		for range 3 {
			s.connect()
			for range 2 {
				mustSample(t, `tcphup_scrape_success{source="tcp"}`, 1)
				if _, err := get(t, "http://"+tcphupAddress+"/api/v1/flows?limit=1000"); err != nil {
					t.Error(err)
				}
			}
			if answer, err := postAlert(t, s.target.addr()); err != nil || !strings.Contains(answer, `"closed":100`) {
				t.Errorf("%q, %v", answer, err)
			}
			s.finish("after the alert")
		}
		mustSample(t, fmt.Sprintf(`tcphup_sockets{destination=%q,port="%d",state="established"}`, addr.Addr(), addr.Port()), others)
		peak := peakMemory(t, served.cmd.Process.Pid)
		t.Logf("%d sockets, repeated scrapes, 300 flows hung up: peak %d kB resident", 2*others, peak)
		if peak > limit {
			t.Errorf("peak %d kB resident, want at most %d", peak, limit)
		}
	})
}
