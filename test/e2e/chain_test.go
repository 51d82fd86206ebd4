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
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// Addresses of the programs, free in each test's private network namespace.
const (
	tcphupAddress       = "127.0.0.1:10471"
	receiverAddress     = "127.0.0.1:10472"
	prometheusAddress   = "127.0.0.1:9090"
	alertmanagerAddress = "127.0.0.1:9093"
)

const token = "a-token-for-the-test-of-the-chain"

// serve runs tcphup as a service until the test ends.
func serve(t testing.TB, args ...string) *process {
	t.Helper()
	p := startProcess(t, program.Path(t),
		append([]string{"serve", "--web.listen-address=" + tcphupAddress, "--alerts.listen-address=" + receiverAddress}, args...)...)
	awaitPage(t, "http://"+tcphupAddress+"/-/ready")
	return p
}

// get returns the body of a response; any status but 200 is an error.
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

// sample returns the value of a series of tcphup; false when the series is missing.
func sample(t testing.TB, series string) (float64, bool) {
	t.Helper()
	return sampleOf(t, "http://"+tcphupAddress, series)
}

// sampleOf returns the value of a series of any exporter.
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

// idleFlows returns a PromQL query with a result once a flow to the port is idle for more
// than a second.
func idleFlows(port string) string {
	return fmt.Sprintf(`tcphup_socket_idle_seconds_count{port=%q} - ignoring(le) tcphup_socket_idle_seconds_bucket{port=%[1]q,le="1"} > 0`, port)
}

// keepAliveServer is an HTTP server that reports each closed connection.
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

func (s *keepAliveServer) client() *exec.Cmd { return goClientCommand(s.host, s.port) }

// TestPrivilegedChain covers the whole chain: Prometheus scrapes an idle connection,
// Alertmanager posts, tcphup hangs up, the application reconnects and the alert resolves.
// Without valid credentials, no connection is closed.
func TestPrivilegedChain(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			name   string
			args   []string
			sent   string
			closes bool
			series string // expected above 0
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
				target, bystander := startServer(t, "127.0.0.1:0"), startServer(t, "127.0.0.1:0")
				ask, askBystander := startClient(t, target.client()), startClient(t, bystander.client())
				first, other := ask(), askBystander()

				served := serve(t, tt.args...)
				startAlertmanager(t, alertmanagerConfig{groupBy: "alertname, destination, port", token: tt.sent})
				startPrometheus(t, idleFlows(target.port), tcphupAddress)

				nstest.Eventually(t, tt.series+" rises", func() bool {
					value, ok := sample(t, tt.series)
					return ok && value > 0
				})
				if tt.closes {
					closed := <-target.closed
					if "200 "+closed+" <nil>" != first {
						t.Errorf("closed connection %q, want %q", closed, first)
					}
					if next := ask(); next == first || !strings.HasPrefix(next, "200 ") {
						t.Errorf("response after the hang-up %q, before %q", next, first)
					}
					nstest.Eventually(t, "the alert resolves", func() bool {
						ask() // keeps the new connection busy
						alerts, err := get(t, "http://"+alertmanagerAddress+"/api/v2/alerts?active=true")
						return err == nil && strings.TrimSpace(alerts) == "[]"
					})
				} else if again := ask(); again != first || len(target.closed) != 0 {
					t.Errorf("connection closed without valid credentials: %q, then %q", first, again)
				}
				if again := askBystander(); again != other || len(bystander.closed) != 0 {
					t.Errorf("bystander's connection closed: %q, then %q", other, again)
				}
				if err := served.stop(); err != nil {
					t.Errorf("tcphup serve after SIGTERM: %v", err)
				}
			})
		}
	})
}

// TestPrivilegedRefusesToStart checks that a non-loopback receiver requires a token file.
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

// TestPrivilegedStopsGracefully checks that SIGTERM lets a running action complete, and that
// its sender gets the response.
func TestPrivilegedStopsGracefully(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", KeepOpen: true})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, false)
		served := serveArmed(t)

		responses := make(chan string, 1)
		go func() {
			response, err := postAlert(t, server.Addr())
			responses <- fmt.Sprint(response, " ", err)
		}()
		// The peer keeps its end open, so the action lasts for the linger time.
		if got := app.Call("recv %d", fd); got != "recv ok 0" {
			t.Fatalf("application: %q", got)
		}
		if err := served.stop(); err != nil {
			t.Errorf("tcphup serve after SIGTERM: %v", err)
		}
		if got := <-responses; !strings.HasPrefix(got, "200 OK") || !strings.Contains(got, `"half_closed":1`) {
			t.Errorf("response: %q", got)
		}
	})
}

// postAlert posts a notification with one alert about the destination, with the token. It
// returns status and body of the response.
func postAlert(t testing.TB, destination netip.AddrPort) (string, error) {
	t.Helper()
	return sendWithToken(alertRequest(t, "http://"+receiverAddress+"/alerts", destination))
}

// sendWithToken adds the token to a request and returns status and body of the response.
func sendWithToken(request *http.Request) (string, error) {
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.Status + " " + string(answer), err
}

// alertRequest returns Alertmanager's request for one alert, without credentials.
func alertRequest(t testing.TB, url string, destination netip.AddrPort) *http.Request {
	t.Helper()
	return notificationRequest(t, url, fmt.Sprintf(`"alertname":"Stale","destination":%q,"port":"%d"`, destination.Addr(), destination.Port()))
}

// notificationRequest returns Alertmanager's request for one alert with these labels, given as
// JSON members, and the label tcphup.
func notificationRequest(t testing.TB, url, labels string) *http.Request {
	t.Helper()
	body := fmt.Sprintf(`{"version":"4","status":"firing","alerts":[{"status":"firing","fingerprint":"c0ffee","startsAt":%q,
		"labels":{"tcphup":"hangup",%s}}]}`, time.Now().UTC().Format(time.RFC3339Nano), labels)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	return request
}
