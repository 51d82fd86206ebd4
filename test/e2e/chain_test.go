package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// Addresses of the programs, each alone in the test's network namespace.
const (
	tcphupAddress       = "127.0.0.1:10471"
	receiverAddress     = "127.0.0.1:10472"
	prometheusAddress   = "127.0.0.1:9090"
	alertmanagerAddress = "127.0.0.1:9093"
)

const token = "a-token-for-the-test-of-the-chain"

// process is a program that runs until the test ends.
type process struct {
	t   testing.TB
	cmd *exec.Cmd
	log string
	// exited is closed when the process has ended; err, how it did, may be read then.
	exited chan struct{}
	err    error
}

func startProcess(t testing.TB, name string, args ...string) *process {
	t.Helper()
	return startCommand(t, exec.Command(name, args...))
}

func startCommand(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, log: filepath.Join(t.TempDir(), "log"), exited: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			b, err := os.ReadFile(p.log)
			t.Logf("log of %v (%v):\n%s", cmd, err, b)
		}
	})
	return p
}

// logged returns what the process has written so far.
func (p *process) logged() string {
	p.t.Helper()
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// wait returns how the process has ended.
func (p *process) wait() error {
	<-p.exited
	return p.err
}

// stop asks the process to end and returns how it did.
func (p *process) stop() error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.exited:
		return p.err
	case <-time.After(nstest.HangGuard):
		p.t.Fatalf("timed out after %v: the process does not end", nstest.HangGuard)
		return nil
	}
}

// kill ends the process at once, whatever it is at.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.exited
}

// serve runs tcphup as a service until the test ends.
func serve(t testing.TB, args ...string) *process {
	t.Helper()
	p := startProcess(t, program.Path(t),
		append([]string{"serve", "--web.listen-address=" + tcphupAddress, "--alerts.listen-address=" + receiverAddress}, args...)...)
	awaitPage(t, "http://"+tcphupAddress+"/-/ready")
	return p
}

// get returns the body of a page, or an error for any answer but 200.
func get(t testing.TB, url string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), nstest.HangGuard)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("%s: %s", url, response.Status))
	}
	return string(body), err
}

func awaitPage(t testing.TB, url string) {
	t.Helper()
	nstest.Eventually(t, url, func() bool {
		_, err := get(t, url)
		return err == nil
	})
}

// sample returns the value of one series of tcphup, and false when there is none.
func sample(t testing.TB, series string) (float64, bool) {
	t.Helper()
	return sampleOf(t, "http://"+tcphupAddress, series)
}

// sampleOf does so for any program with a page /metrics.
func sampleOf(t testing.TB, url, series string) (float64, bool) {
	t.Helper()
	page, err := get(t, url+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(page) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n, true
		}
	}
	return 0, false
}

func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// idleFlows is a query that has a result when a flow to the port has been idle.
func idleFlows(port string) string {
	return fmt.Sprintf(`tcphup_socket_idle_seconds_count{port=%q} - ignoring(le) tcphup_socket_idle_seconds_bucket{port=%[1]q,le="1"} > 0`, port)
}

// startPrometheus scrapes tcphup at these addresses and fires while the query has a
// result.
func startPrometheus(t *testing.T, query string, targets ...string) {
	t.Helper()
	rules := writeFile(t, "rules.yml", fmt.Sprintf(`
groups:
  - name: tcphup
    rules:
      - alert: StaleSockets
        expr: %s
        labels: {tcphup: hangup}
`, query))
	config := writeFile(t, "prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}
rule_files: [%q]
scrape_configs: [{job_name: tcphup, static_configs: [{targets: [%s]}]}]
alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}
`, rules, strings.Join(targets, ", "), alertmanagerAddress))
	startProcess(t, need(t, "prometheus", "prometheus"), "--config.file="+config, "--storage.tsdb.path="+t.TempDir(),
		"--web.listen-address="+prometheusAddress, "--log.level=warn")
	awaitPage(t, "http://"+prometheusAddress+"/-/ready")
}

// keepAliveServer counts the connections that it has accepted and that have ended.
type keepAliveServer struct {
	host, port string
	closed     chan string
}

func startServer(t *testing.T, address string) *keepAliveServer {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &keepAliveServer{closed: make(chan string, 100)}
	if s.host, s.port, err = net.SplitHostPort(listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) }),
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				s.closed <- c.RemoteAddr().String()
			}
		},
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return s
}

func (s *keepAliveServer) client() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), goClientVariable+"=http://"+net.JoinHostPort(s.host, s.port))
	return cmd
}

// From an idle connection to a new one: Prometheus sees it, Alertmanager posts,
// tcphup hangs it up, the application reconnects, the alert resolves. Without the
// right credentials, nothing is closed.
func TestPrivilegedChain(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			name   string
			args   []string
			sent   string
			closes bool
			series string // must rise above 0
		}{
			{
				name: "armed", args: []string{"--alerts.token-file=" + writeFile(t, "token", token)}, sent: token, closes: true,
				series: `tcphup_hangups_total{method="shutdown",outcome="closed",policy="labelled"}`,
			},
			{
				name: "no token file", sent: token,
				series: `tcphup_hangups_total{method="shutdown",outcome="planned",policy="labelled"}`,
			},
			{
				name: "wrong token", args: []string{"--alerts.token-file=" + writeFile(t, "token", token)}, sent: "another-token-of-enough-length",
				series: `tcphup_notifications_total{code="401"}`,
			},
		} {
			t.Run(tt.name, func(t *testing.T) {
				victim, bystander := startServer(t, "127.0.0.1:0"), startServer(t, "127.0.0.1:0")
				ask, askBystander := startClient(t, victim.client()), startClient(t, bystander.client())
				first, other := ask(), askBystander()

				served := serve(t, tt.args...)
				startAlertmanager(t, alertmanagerConfig{groupBy: "alertname, destination, port", token: tt.sent})
				startPrometheus(t, idleFlows(victim.port), tcphupAddress)

				nstest.Eventually(t, tt.series+" rises", func() bool {
					value, ok := sample(t, tt.series)
					return ok && value > 0
				})
				if tt.closes {
					closed := <-victim.closed
					if "200 "+closed+" <nil>" != first {
						t.Errorf("closed is %q, the client's connection was %q", closed, first)
					}
					if next := ask(); next == first || !strings.HasPrefix(next, "200 ") {
						t.Errorf("the client's next request: %q, before: %q", next, first)
					}
					nstest.Eventually(t, "the alert resolves", func() bool {
						ask() // the new connection is in use
						alerts, err := get(t, "http://"+alertmanagerAddress+"/api/v2/alerts?active=true")
						return err == nil && strings.TrimSpace(alerts) == "[]"
					})
				} else if again := ask(); again != first || len(victim.closed) != 0 {
					t.Errorf("without the right credentials the client's connection was closed: %q, then %q", first, again)
				}
				if again := askBystander(); again != other || len(bystander.closed) != 0 {
					t.Errorf("the bystander's connection was closed: %q, then %q", other, again)
				}
				if err := served.stop(); err != nil {
					t.Errorf("tcphup serve after SIGTERM: %v", err)
				}
			})
		}
	})
}

// A receiver that everyone can reach and that asks for nothing does not start.
func TestPrivilegedRefusesToStart(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		for _, address := range []string{":10472", "0.0.0.0:10472", "[::]:10472", "192.0.2.1:10472", "example.com:10472"} {
			r := tcphup(t, "serve", "--web.listen-address="+tcphupAddress, "--alerts.listen-address="+address)
			if r.exit != 2 || !strings.Contains(r.stderr, "--alerts.token-file") {
				t.Errorf("%s: exit %d, %s", address, r.exit, r.stderr)
			}
		}
	})
}

// An action that is under way when the program is told to stop ends in order, and
// its sender gets the answer.
func TestPrivilegedStopsGracefully(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", Hold: true})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		fd := app.Connect(server.Addr(), false, false)
		served := serveArmed(t)

		answers := make(chan string, 1)
		go func() {
			answer, err := postAlert(t, server.Addr())
			answers <- fmt.Sprint(answer, " ", err)
		}()
		// The peer holds its end, so the action goes on until its linger is over.
		if got := app.Ask("recv %d", fd); got != "recv ok 0" {
			t.Fatalf("application: %q", got)
		}
		if err := served.stop(); err != nil {
			t.Errorf("tcphup serve after SIGTERM: %v", err)
		}
		if got := <-answers; !strings.HasPrefix(got, "200 OK") || !strings.Contains(got, `"half_closed":1`) {
			t.Errorf("the answer is %q", got)
		}
	})
}

// postAlert sends one alert of Alertmanager's about the destination, with the
// token, and returns status and body of the answer.
func postAlert(t testing.TB, destination netip.AddrPort) (string, error) {
	t.Helper()
	request := alertRequest(t, "http://"+receiverAddress+"/alerts", destination)
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.Status + " " + string(answer), err
}

// alertRequest is what Alertmanager sends of one alert, without credentials.
func alertRequest(t testing.TB, url string, destination netip.AddrPort) *http.Request {
	t.Helper()
	body := fmt.Sprintf(`{"version":"4","status":"firing","alerts":[{"status":"firing","fingerprint":"c0ffee","startsAt":%q,
		"labels":{"alertname":"Stale","tcphup":"hangup","destination":%q,"port":"%d"}}]}`,
		time.Now().UTC().Format(time.RFC3339Nano), destination.Addr(), destination.Port())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	return request
}
