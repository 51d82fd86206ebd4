package alerts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/test/kit/nstest"
)

// listen serves a handler on loopback with the server limits of the fixture and returns
// its URL.
func (f *fixture) listen(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	f.ConfigureServer(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return "http://" + l.Addr().String() + "/alerts"
}

// alertmanager is a running Alertmanager.
type alertmanager struct{ api string }

// startAlertmanager runs an Alertmanager that sends each alert to url as a separate group.
// Only a retry sends an alert again within the test.
func startAlertmanager(t *testing.T, url, token string, port int, args ...string) alertmanager {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "token"), token)
	writeFile(t, filepath.Join(dir, "am.yml"), fmt.Sprintf(`
route: {receiver: tcphup, group_by: [...], group_wait: 100ms, group_interval: 5m, repeat_interval: 4h}
receivers:
  - name: tcphup
    webhook_configs:
      - url: %s
        send_resolved: false
        http_config: {authorization: {credentials_file: %s/token}}
`, url, dir))
	a := alertmanager{api: fmt.Sprintf("http://127.0.0.1:%d", port)}
	if len(args) == 0 {
		args = []string{"--cluster.listen-address="}
	}
	cmd := exec.CommandContext(t.Context(), "prometheus-alertmanager", append(args, "--config.file="+dir+"/am.yml",
		"--storage.path="+dir+"/data", fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Alertmanager (Debian package prometheus-alertmanager): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("output of Alertmanager:\n%s", output.String())
		}
	})
	nstest.Eventually(t, "Alertmanager is ready", func() bool {
		resp, err := http.Get(a.api + "/-/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return a
}

// posted is an alert as Alertmanager's API takes it.
type posted struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations,omitempty"`
	StartsAt    time.Time         `json:"startsAt"`
}

// fire posts a firing alert for each destination.
func (a alertmanager) fire(t *testing.T, destinations ...string) {
	t.Helper()
	var alerts []posted
	for _, d := range destinations {
		alerts = append(alerts, posted{Labels: staleAlert(d, "5432").Labels, StartsAt: time.Now()})
	}
	a.post(t, alerts...)
}

func (a alertmanager) post(t *testing.T, alerts ...posted) {
	t.Helper()
	body, err := json.Marshal(alerts)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(a.api+"/api/v2/alerts", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("response of Alertmanager: %s", resp.Status)
	}
}

// count returns the value of a counter of the receiver.
func (f *fixture) count(t *testing.T, metric string) int {
	t.Helper()
	_, after, ok := strings.Cut(metricsText(t, f), "\n"+metric+" ")
	if !ok {
		t.Fatalf("no metric %s", metric)
	}
	var n int
	if _, err := fmt.Sscan(after, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (f *fixture) eventually(t *testing.T, metric string, atLeast int) {
	t.Helper()
	nstest.Eventually(t, fmt.Sprintf("%s is %d or more", metric, atLeast), func() bool {
		return f.count(t, metric) >= atLeast
	})
}

func liveFixture(t *testing.T, change func(*Config)) *fixture {
	return newFixture(t, DefaultRules(), func(c *Config) {
		c.Now = nil
		if change != nil {
			change(c)
		}
	})
}

// A real Alertmanager parses the responses as intended: it retries on 503 and not on 200
// or 401.
func TestPrivilegedAlertmanager(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		t.Run("concurrent groups", func(t *testing.T) {
			f := liveFixture(t, nil)
			var most, running atomic.Int32
			f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
				if a.DryRun {
					return plannedFlows(a), nil
				}
				n := running.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				defer running.Add(-1)
				return outcome(hangup.Closed, 1), nil
			}
			am := startAlertmanager(t, f.listen(t, f), testToken, 9093)
			var destinations []string
			for i := range 30 {
				destinations = append(destinations, fmt.Sprintf("10.0.0.%d", i+1))
			}
			am.fire(t, destinations...)
			f.eventually(t, `tcphup_notifications_total{code="200"}`, 30)
			// The limit is 20 destinations per hour; then the breaker opens.
			done, open := f.count(t, `tcphup_alerts_total{result="done"}`), f.count(t, `tcphup_alerts_total{result="breaker_open"}`)
			if done != 20 || open != 10 || most.Load() > int32(f.config.MaxActions) {
				t.Errorf("%d done, %d refused by the breaker, %d concurrent", done, open, most.Load())
			}
		})
		t.Run("large annotation", func(t *testing.T) {
			f := liveFixture(t, nil)
			am := startAlertmanager(t, f.listen(t, f), testToken, 9093)
			am.post(t, posted{
				Labels:      staleAlert("10.0.0.5", "5432").Labels,
				Annotations: map[string]string{"description": strings.Repeat("x", 1_100_000)}, StartsAt: time.Now(),
			})
			f.eventually(t, `tcphup_alerts_total{result="done"}`, 1)
			if n := f.count(t, `tcphup_notifications_total{code="413"}`); n != 0 {
				t.Errorf("%d notifications rejected", n)
			}
		})
		t.Run("paused and resumed", func(t *testing.T) {
			f := liveFixture(t, nil)
			f.Pause()
			am := startAlertmanager(t, f.listen(t, f), testToken, 9093)
			am.fire(t, "10.0.0.5")
			f.eventually(t, `tcphup_notifications_total{code="503"}`, 2) // with a retry
			if err := f.Resume(); err != nil {
				t.Fatal(err)
			}
			f.eventually(t, `tcphup_alerts_total{result="done"}`, 1)
		})
		t.Run("token file repaired", func(t *testing.T) {
			f := liveFixture(t, nil)
			if err := os.Chmod(f.config.TokenFile, 0o644); err != nil {
				t.Fatal(err)
			}
			am := startAlertmanager(t, f.listen(t, f), testToken, 9093)
			am.fire(t, "10.0.0.5")
			f.eventually(t, `tcphup_notifications_total{code="503"}`, 1)
			if err := os.Chmod(f.config.TokenFile, 0o600); err != nil {
				t.Fatal(err)
			}
			f.eventually(t, `tcphup_alerts_total{result="done"}`, 1)
		})
		t.Run("wrong token", func(t *testing.T) {
			f := liveFixture(t, nil)
			am := startAlertmanager(t, f.listen(t, f), otherToken, 9093)
			am.fire(t, "10.0.0.5")
			f.eventually(t, `tcphup_notifications_total{code="401"}`, 1)
			if seen := f.hang.seen(); len(seen) > 0 {
				t.Errorf("actions: %v", seen)
			}
		})
		t.Run("finished by retries", func(t *testing.T) {
			f := liveFixture(t, func(c *Config) { c.Timeout = 200 * time.Millisecond })
			var left atomic.Int32
			left.Store(3)
			f.hang.hangUp = func(ctx context.Context, _ hangup.Request) (*hangup.Report, error) {
				n := int(left.Add(-1))
				if n > 0 {
					<-ctx.Done()
				}
				return unfinished(1, n), nil
			}
			am := startAlertmanager(t, f.listen(t, f), testToken, 9093)
			am.fire(t, "10.0.0.5")
			f.eventually(t, `tcphup_alerts_total{result="done"}`, 1)
			if n := f.count(t, `tcphup_alerts_total{result="unfinished"}`); n < 2 { // may be more on a slow machine
				t.Errorf("%d unfinished, want 2 at least", n)
			}
		})
		t.Run("pair with a slow receiver", func(t *testing.T) {
			f := liveFixture(t, func(c *Config) { c.Timeout = nstest.HangGuard })
			both := make(chan struct{})
			f.hang.hangUp = func(ctx context.Context, _ hangup.Request) (*hangup.Report, error) {
				select {
				case <-both: // the notification of the second Alertmanager arrived
					return outcome(hangup.Closed, 3), nil
				case <-ctx.Done():
					return nil, errors.New("no notification from the second Alertmanager")
				}
			}
			var arrived atomic.Int32
			counting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if arrived.Add(1) == 2 {
					close(both)
				}
				f.ServeHTTP(w, r)
			})
			url := f.listen(t, counting)
			pair := func(port, own, peer int) alertmanager {
				return startAlertmanager(t, url, testToken, port,
					fmt.Sprintf("--cluster.listen-address=127.0.0.1:%d", own),
					fmt.Sprintf("--cluster.advertise-address=127.0.0.1:%d", own),
					fmt.Sprintf("--cluster.peer=127.0.0.1:%d", peer),
					"--cluster.peer-timeout=1s", "--cluster.settle-timeout=1s")
			}
			one, two := pair(9093, 9094, 9095), pair(9193, 9095, 9094)
			one.fire(t, "10.0.0.5")
			two.fire(t, "10.0.0.5")
			f.eventually(t, `tcphup_notifications_total{code="200"}`, 2)
			if seen := f.hang.seen(); len(seen) != 1 {
				t.Errorf("%d actions: %v", len(seen), seen)
			}
			if n := f.count(t, `tcphup_alerts_total{result="cooldown"}`); n != 1 {
				t.Errorf("%d results cooldown, want 1", n)
			}
		})
	})
}
