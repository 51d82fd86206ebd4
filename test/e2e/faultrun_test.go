package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// faultRunVariable is the environment variable for the length of TestPrivilegedFaultRun.
const faultRunVariable = "TCPHUP_FAULT_RUN"

// TestPrivilegedFaultRun checks alerts of a real Alertmanager while tcphup is killed and
// restarted, stopped, paused and reloaded at random. Every stale flow ends, no other does,
// and the audit has a record of each, or an aborted action that counts it.
func TestPrivilegedFaultRun(t *testing.T) {
	t.Parallel()
	length := 10 * time.Second
	if text := os.Getenv(faultRunVariable); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	nstest.Run(t, func(t *testing.T) { faultRun(t, length) })
}

func faultRun(t *testing.T, length time.Duration) {
	const flows, bystanders = 20, 20
	binary := testapp.Build(t)
	connect := func(to *backend, n int) {
		t.Helper()
		app := testapp.Start(t, binary)
		app.Call("ignore")
		if got := app.Call("many %s %d %d", to.addr().Addr(), to.addr().Port(), n); got != fmt.Sprintf("many ok %d", n) {
			t.Fatal(got)
		}
	}
	other := startBackend(t, "127.0.0.2:0")
	connect(other, bystanders)
	audit := filepath.Join(t.TempDir(), "audit")
	args := []string{
		"--audit.log-file=" + audit,
		"--config.file=" + policyFile(t, "    limits: {rate: 40, cooldown: 0s, breaker: {actions: 1000000, destinations: 1000000}}"),
	}
	served := serveArmed(t, args...)
	am := startAlertmanager(t, alertmanagerConfig{groupBy: "destination, port", token: token})

	var stale []*backend
	faults := make(map[string]int)
	for end := time.Now().Add(length); time.Now().Before(end); {
		server := startBackend(t, "127.0.0.1:0")
		connect(server, flows)
		am.post(alertAbout(server.addr()))
		stale = append(stale, server)
		server.awaitEnded(rand.N(flows)) // the fault comes somewhere in the action
		switch fault := rand.N(4); fault {
		case 0:
			faults["SIGKILL"]++
			served.kill()
			served = serveArmed(t, args...)
		case 1:
			faults["SIGSTOP"]++
			_ = served.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(rand.N(500 * time.Millisecond)) // the length of the fault
			_ = served.cmd.Process.Signal(syscall.SIGCONT)
		case 2:
			faults["reload"]++
			_ = served.cmd.Process.Signal(syscall.SIGHUP)
		case 3:
			faults["pause"]++
			mustCommand(t, "/-/pause", 200)
			time.Sleep(rand.N(200 * time.Millisecond)) // the length of the fault
			mustCommand(t, "/-/resume", 200)
		}
	}
	for _, server := range stale {
		server.awaitEnded(flows)
		server.mustCount(0, flows)
	}
	_, ended := other.counts()
	other.mustCount(bystanders, 0)
	if err := served.stop(); err != nil {
		t.Errorf("exit: %v", err)
	}
	recorded, aborted := auditedFlows(t, audit)
	t.Logf("%v: %d stale flows ended, %d of %d others; faults: %v; audit: %d flows, %d aborted actions with %d flows without a record",
		length, len(stale)*flows, ended, bystanders, faults, recorded, len(aborted), sumOf(aborted))
	if missing := len(stale)*flows - recorded; missing > sumOf(aborted) {
		t.Errorf("%d flows have no record, aborted actions count %d", missing, sumOf(aborted))
	}
}

// auditedFlows returns the number of flows that the audit log records as hung up, and the
// flows without a record of each aborted action.
func auditedFlows(t *testing.T, file string) (recorded int, aborted []int) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cookies := make(map[string]bool)
	open := make(map[string]bool) // actions
	for line := range strings.Lines(string(content)) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Logf("line torn by a SIGKILL: %q", line)
			continue
		}
		switch r.Event {
		case "begin":
			open[r.Action] = true
		case "flow":
			if r.Flow.Method == "shutdown" || r.Flow.Outcome == "gone" {
				cookies[r.Flow.Cookie] = true
			}
		case "aborted":
			delete(open, r.Action)
			var n int
			if _, err := fmt.Sscanf(r.Detail, "tcphup ended during the action; flows without a record: %d", &n); err != nil {
				t.Errorf("detail %q: %v", r.Detail, err)
			}
			aborted = append(aborted, n)
		case "end":
			delete(open, r.Action)
		}
	}
	if len(open) > 0 {
		t.Errorf("%d actions neither ended nor aborted", len(open))
	}
	return len(cookies), aborted
}

func sumOf(numbers []int) (sum int) {
	for _, n := range numbers {
		sum += n
	}
	return sum
}
