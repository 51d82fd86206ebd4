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

// The program gets no CPU for two seconds in the middle of an action, and afterwards
// does what is left of it. The same befalls Alertmanager: its notification is dealt
// with, and the answer waits.
func TestPrivilegedStopped(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const flows, pause = 40, 2 * time.Second
		for _, who := range []string{"tcphup", "alertmanager"} {
			t.Run(who, func(t *testing.T) {
				s := newStand(t, flows)
				s.connect()
				served := serveArmed(t, "--config.file="+policyFile(t, "    limits: {rate: 10}"))
				am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", interval: "5m", token: token})
				am.post(alertAbout(s.victim.addr()))
				s.victim.awaitEnded(flows / 8)
				stopped := map[string]*process{"tcphup": served, "alertmanager": am.process}[who].cmd.Process
				signal := func(signal syscall.Signal) {
					if err := stopped.Signal(signal); err != nil {
						t.Fatal(err)
					}
				}
				signal(syscall.SIGSTOP)
				awaitStopped(t, stopped.Pid)
				before := establishedTo(t, s.victim)
				time.Sleep(pause) // the stop itself: no assertion depends on its length
				if after := establishedTo(t, s.victim); who == "tcphup" && (after != before || before == 0) {
					t.Errorf("%d flows were open when it was stopped and %d after that", before, after)
				}
				signal(syscall.SIGCONT)
				s.victim.awaitEnded(flows)
				awaitSample(t, alertsWith("done"), 1)
				awaitSample(t, answered200, 1)
				mustSample(t, flowsClosed, flows)
				s.victim.mustCount(0, flows)
				s.mustSpareBystander("after the stop")
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

// The sender of an alert resets its connection while the action is under way: what has
// not begun is left, for the next notification, and nothing is left behind.
func TestPrivilegedSenderResets(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const flows = 40
		s := newStand(t, flows)
		s.connect()
		serveArmed(t, "--watch-reconnect=0s", "--config.file="+policyFile(t, "    limits: {rate: 10, cooldown: 0s}"))
		const fds, goroutines = "process_open_fds", "go_goroutines"
		mustSample(t, alertsWith("done"), 0)
		fdsBefore, _ := sample(t, fds)
		goroutinesBefore, _ := sample(t, goroutines)

		request := alertRequest(t, "http://"+receiverAddress+"/alerts", s.victim.addr())
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
		s.victim.awaitEnded(flows / 8)
		if err := conn.(*net.TCPConn).SetLinger(0); err != nil { // close sends RST
			t.Fatal(err)
		}
		conn.Close()
		awaitSample(t, alertsWith("unfinished"), 1)
		mustSample(t, answered503, 1)
		nstest.Eventually(t, "the flows that were hung up have ended", func() bool {
			_, ended := s.victim.counts()
			return float64(ended) == hungUp(t)
		})
		_, before := s.victim.counts()
		if before == 0 || before >= flows {
			t.Fatalf("%d of %d flows were hung up before the reset", before, flows)
		}
		s.victim.mustCount(flows-before, before)

		answer, err := postAlert(t, s.victim.addr())
		if err != nil || !strings.HasPrefix(answer, "200 ") || !strings.Contains(answer, fmt.Sprintf(`"closed":%d`, flows-before)) {
			t.Errorf("the next answer is %q, %v, want %d closed", answer, err, flows-before)
		}
		s.victim.awaitEnded(flows)
		s.victim.mustCount(0, flows)
		s.mustSpareBystander("after the reset")
		http.DefaultClient.CloseIdleConnections()
		nstest.Eventually(t, "descriptors and goroutines are what they were", func() bool {
			f, _ := sample(t, fds)
			g, _ := sample(t, goroutines)
			return f <= fdsBefore && g <= goroutinesBefore
		})
	})
}

// Nobody else's descriptors are left to the program when its table is full: scrapes and
// alerts say so, flows end in order or not at all, and when there is room again so does
// what was asked for.
func TestPrivilegedDescriptorTableFull(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		s := newStand(t, 4)
		served := serveArmed(t, "--watch-reconnect=0s", "--config.file="+policyFile(t, "    limits: {cooldown: 0s, breaker: {actions: 1000}}"))
		const success, fds = `tcphup_scrape_success{source="tcp"}`, "process_open_fds"
		mustSample(t, success, 1)
		if _, err := postAlert(t, s.victim.addr()); err != nil { // opens the connection that is kept
			t.Fatal(err)
		}
		before, _ := sample(t, fds)
		failed, blind := 0, 0
		for spare := range 10 {
			s.connect()
			lift := nstest.LimitDescriptors(t, served.cmd.Process.Pid, spare)
			if value, ok := sample(t, success); ok && value == 0 {
				blind++
			}
			answer, err := postAlert(t, s.victim.addr())
			if err != nil {
				t.Fatal(err)
			}
			when := fmt.Sprintf("%d descriptors to spare: %s", spare, answer)
			untouched := s.mustBeWhole(when)
			if untouched > 0 {
				failed++
			}
			if said := !strings.Contains(answer, fmt.Sprintf(`"closed":%d`, len(s.fds))); said != (untouched > 0) {
				t.Errorf("%d flows are untouched; %s", untouched, when)
			}
			lift()
			if untouched > 0 {
				answer, err := postAlert(t, s.victim.addr())
				if err != nil || !strings.HasPrefix(answer, "200 ") || !strings.Contains(answer, fmt.Sprintf(`"closed":%d`, untouched)) {
					t.Errorf("afterwards: %q, %v", answer, err)
				}
			}
			s.finish(when)
			mustSample(t, success, 1)
		}
		t.Logf("with up to 9 descriptors to spare %d scrapes and %d alerts failed", blind, failed)
		if failed == 0 || blind == 0 || failed == 10 {
			t.Error("the limits were too low or too high to try anything")
		}
		if !strings.Contains(served.logged(), "too many open files") {
			t.Errorf("the log does not tell of it")
		}
		s.mustSpareBystander("at last")
		nstest.Eventually(t, "descriptors are what they were", func() bool { now, _ := sample(t, fds); return now <= before })
	})
}

// Sixty-four megabytes are enough to watch tens of thousands of connections, and to
// hang some of them up, again and again.
func TestPrivilegedMemory(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const limit, others = 64 << 10, 12400 // kB, connections
		s := newStand(t, 100)
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
			if answer, err := postAlert(t, s.victim.addr()); err != nil || !strings.Contains(answer, `"closed":100`) {
				t.Errorf("%q, %v", answer, err)
			}
			s.finish("after the alert")
		}
		mustSample(t, fmt.Sprintf(`tcphup_sockets{destination=%q,port="%d",state="established"}`, addr.Addr(), addr.Port()), others)
		peak := peakMemory(t, served.cmd.Process.Pid)
		t.Logf("%d sockets, scraped again and again, 300 flows hung up: at most %d kB resident", 2*others, peak)
		if peak > limit {
			t.Errorf("at most %d kB resident, want %d or less", peak, limit)
		}
	})
}
