package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedResolved checks that a notification hangs up flows of firing alerts only, with
// and without resolved alerts in it.
func TestPrivilegedResolved(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		for _, send := range []bool{true, false} {
			t.Run(fmt.Sprint("send_resolved ", send), func(t *testing.T) {
				first, second := startBackend(t, "127.0.0.1:0"), startBackend(t, "127.0.0.2:0")
				dial(t, true, 3, first.addr(), second.addr())
				serveArmed(t, "--config.file="+policyFile(t, "    limits: {cooldown: 0s}"))
				am := startAlertmanager(t, alertmanagerConfig{
					groupBy: "alertname", token: token, webhook: fmt.Sprint("send_resolved: ", send),
				})
				alertFirst := alertAbout(first.addr())
				am.post(alertFirst)
				first.awaitEnded(3)
				awaitSample(t, alertsWith("done"), 1)

				// One request leads to one notification. Repeats may hang up new connections before.
				alertFirst.EndsAt = time.Now()
				am.post(alertFirst, alertAbout(second.addr()))
				second.awaitEnded(3)
				if send {
					awaitSample(t, alertsWith("resolved"), 1)
				}
				first.awaitOpen(3)
				_, ended := first.counts()
				before, _ := sample(t, answered200)
				awaitSample(t, answered200, before+2)
				first.mustCount(3, ended)
				if !send {
					mustSample(t, alertsWith("resolved"), 0)
				}
			})
		}
	})
}

// TestPrivilegedGroup checks that all 30 alerts of one notification are processed.
func TestPrivilegedGroup(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const destinations, each = 30, 3
		server := startBackend(t, "0.0.0.0:0")
		var alerts []alert
		for i := range destinations {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), server.addr().Port())
			dial(t, false, each, to)
			alerts = append(alerts, alertAbout(to))
		}
		bystander := netip.AddrPortFrom(netip.MustParseAddr("127.0.2.1"), server.addr().Port())
		dial(t, false, each, bystander)
		serveArmed(t, "--config.file="+policyFile(t, "    limits: {breaker: {destinations: 30}}"))
		am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", wait: oneNotification, interval: "5m", token: token})
		am.post(alerts...)
		server.awaitEnded(destinations * each)
		awaitSample(t, answered200, 1)
		mustSample(t, alertsWith("done"), destinations)
		mustSample(t, answered200, 1)
		mustSample(t, flowsClosed, destinations*each)
		server.mustCount(each, destinations*each)
	})
}

// TestPrivilegedRepeats checks that a repeated notification hangs up newly stale flows, except
// within the cooldown.
func TestPrivilegedRepeats(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		t.Run("no cooldown", func(t *testing.T) {
			server := startBackend(t, "127.0.0.1:0")
			dial(t, true, 3, server.addr())
			serveArmed(t, "--config.file="+policyFile(t, "    limits: {cooldown: 0s}"))
			am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", token: token})
			am.post(alertAbout(server.addr()))
			server.awaitEnded(3 * 3)
			awaitSample(t, alertsWith("done"), 3)
			awaitSample(t, flowsClosed, 3*3)
		})
		t.Run("cooldown", func(t *testing.T) {
			server := startBackend(t, "127.0.0.1:0")
			dial(t, true, 3, server.addr())
			serveArmed(t, "--config.file="+policyFile(t, "    limits: {cooldown: 1m}"))
			am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", token: token})
			am.post(alertAbout(server.addr()))
			awaitSample(t, alertsWith("cooldown"), 3)
			mustSample(t, alertsWith("done"), 1)
			server.awaitOpen(3)
			server.mustCount(3, 3)
		})
	})
}

// TestPrivilegedPause checks that a paused receiver closes no flow and responds with 503, and
// that Alertmanager's next retry succeeds after the resume.
func TestPrivilegedPause(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "pause")
		for _, tt := range []struct {
			by            string
			pause, resume func(t *testing.T)
		}{
			{
				by:     "request",
				pause:  func(t *testing.T) { mustCommand(t, "/-/pause", http.StatusOK) },
				resume: func(t *testing.T) { mustCommand(t, "/-/resume", http.StatusOK) },
			},
			{
				by: "file",
				pause: func(t *testing.T) {
					if err := os.WriteFile(file, nil, 0o600); err != nil {
						t.Fatal(err)
					}
				},
				resume: func(t *testing.T) {
					mustCommand(t, "/-/resume", http.StatusConflict)
					if err := os.Remove(file); err != nil {
						t.Fatal(err)
					}
				},
			},
		} {
			t.Run(tt.by, func(t *testing.T) {
				server := startBackend(t, "127.0.0.1:0")
				dial(t, false, 3, server.addr())
				serveArmed(t, "--alerts.pause-file="+file)
				tt.pause(t)
				mustSample(t, fmt.Sprintf("tcphup_paused{by=%q}", tt.by), 1)
				// The long interval prevents repeats, so further requests are retries.
				am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", interval: "5m", token: token})
				am.post(alertAbout(server.addr()))
				awaitSample(t, answered503, 2)
				server.mustCount(3, 0)
				tt.resume(t)
				mustSample(t, fmt.Sprintf("tcphup_paused{by=%q}", tt.by), 0)
				server.awaitEnded(3)
				awaitSample(t, alertsWith("done"), 1)
				server.mustCount(0, 3)
			})
		}
	})
}

// TestPrivilegedPausedMidway checks that a pause interrupts a running action, which a retry
// completes after the pause.
func TestPrivilegedPausedMidway(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const flows = 40
		server := startBackend(t, "127.0.0.1:0")
		dial(t, false, flows, server.addr())
		serveArmed(t, "--config.file="+policyFile(t, "    limits: {rate: 10}"))
		am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", interval: "5m", token: token})
		am.post(alertAbout(server.addr()))
		server.awaitEnded(flows / 8)
		mustCommand(t, "/-/pause", http.StatusOK)
		awaitSample(t, alertsWith("paused"), 1)
		nstest.Eventually(t, "all hung-up flows have ended", func() bool {
			_, ended := server.counts()
			return float64(ended) == hungUp(t)
		})
		_, before := server.counts()
		if before >= flows {
			t.Fatalf("all %d flows hung up before the pause", before)
		}
		awaitSample(t, answered503, 3) // the interrupted action and two retries
		server.mustCount(flows-before, before)
		mustCommand(t, "/-/resume", http.StatusOK)
		server.awaitEnded(flows)
		awaitSample(t, alertsWith("done"), 1)
		server.mustCount(0, flows)
		if n := hungUp(t); n != flows {
			t.Errorf("%v hang-ups, want one for each of %d flows", n, flows)
		}
		t.Logf("%d flows hung up before the pause, %d after it", before, flows-before)
	})
}

// hungUp returns the number of flows shut down by the policy of policyFile, closed and
// lingering.
func hungUp(t *testing.T) float64 {
	t.Helper()
	closed, _ := sample(t, flowsClosed)
	lingering, _ := sample(t, strings.Replace(flowsClosed, "closed", "lingering", 1))
	return closed + lingering
}

// TestPrivilegedKilled checks that Alertmanager's retry completes an action after the receiver
// was killed and restarted.
func TestPrivilegedKilled(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const flows, bystanders = 60, 5
		server, other := startBackend(t, "127.0.0.1:0"), startBackend(t, "127.0.0.1:0")
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		for _, tt := range []struct {
			to *backend
			n  int
		}{{server, flows}, {other, bystanders}} {
			if got := app.Call("many %s %d %d", tt.to.addr().Addr(), tt.to.addr().Port(), tt.n); got != fmt.Sprintf("many ok %d", tt.n) {
				t.Fatal(got)
			}
		}
		config := "--config.file=" + policyFile(t, "    limits: {rate: 20}")
		served := serveArmed(t, config)
		am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", interval: "5m", token: token})
		am.post(alertAbout(server.addr()))
		server.awaitEnded(flows / 6)
		served.kill()
		am.awaitFailed(1)
		before := flows - establishedTo(t, server)
		if before >= flows {
			t.Fatalf("all %d flows hung up before the kill", before)
		}
		serveArmed(t, config)
		server.awaitEnded(flows)
		awaitSample(t, alertsWith("done"), 1)
		mustSample(t, flowsClosed, float64(flows-before))
		server.mustCount(0, flows)
		other.mustCount(bystanders, 0)
		if !app.Alive() {
			t.Error("application exited")
		}
		t.Logf("%d flows hung up before the kill, %d after the restart", before, flows-before)
	})
}

// command posts to a path of the receiver with a token and returns the status.
func command(t testing.TB, path, token string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+receiverAddress+path, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

func mustCommand(t testing.TB, path string, status int) {
	t.Helper()
	if got := command(t, path, token); got != status {
		t.Fatalf("POST %s: status %d, want %d", path, got, status)
	}
}
