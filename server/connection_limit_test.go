package server

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/prometheus/exporter-toolkit/web"

	"tcphup/alerts"
	"tcphup/test/kit/nstest"
)

// Connections beyond the limit close the oldest ones and do not block new clients.
func TestLimitConnections(t *testing.T) {
	const limit = 5
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", encrypted), func(t *testing.T) {
			var open atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") }))
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			limitConnections(s.Config, func() int { return limit })
			limited := s.Config.ConnState
			s.Config.ConnState = func(c net.Conn, state http.ConnState) {
				switch state {
				case http.StateNew:
					open.Add(1)
				case http.StateClosed:
					open.Add(-1)
				default:
				}
				limited(c, state)
			}
			if encrypted {
				s.StartTLS()
			} else {
				s.Start()
			}
			t.Cleanup(s.Close)

			first := dialRaw(t, s, "")
			for i := range 4 * limit {
				half := "GET / HTTP/1.1\r\n"
				if encrypted || i%2 == 0 {
					half = ""
				}
				dialRaw(t, s, half)
			}
			if _, err := first.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
				t.Errorf("oldest connection: %v", err)
			}
			client := s.Client()
			for range 2 {
				response, err := client.Get(s.URL)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if err != nil || string(body) != "here" {
					t.Errorf("beside idle connections: %q, %v", body, err)
				}
			}
			nstest.Eventually(t, "connections beyond the limit are closed", func() bool { return open.Load() <= limit })
		})
	}
}

// Connections of unauthenticated clients never close a connection with a request that had
// valid credentials.
func TestAuthenticatedConnections(t *testing.T) {
	const token = "0123456789abcdef0123456789abcdef"
	dir := t.TempDir()
	tokens, users := filepath.Join(dir, "token"), filepath.Join(dir, "web.yml")
	for name, content := range map[string]string{tokens: token + "\n", users: "basic_auth_users: {a: " + passwordHash + "}\n"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	post := func(token string) string {
		return "POST /alerts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
	}
	const scrape = "GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, tt := range []struct {
		name, request, webConfig, token string
		kept                            bool
	}{
		{name: "token", request: post(token), token: tokens, kept: true},
		{name: "wrong token", request: post("x" + token), token: tokens},
		{name: "no token required", request: post(token)},
		{name: "web listener with credentials", request: scrape, webConfig: users, kept: true},
		{name: "web listener", request: scrape},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const limit = 3
			x := testServer(t, Options{AlertsAddress: "127.0.0.1:0", Alerts: alerts.Config{TokenFile: tt.token}, Web: &web.FlagConfig{WebConfigFile: &tt.webConfig}})
			handler := x.alertRoutes().exact()
			if tt.request == scrape {
				handler = x.markWebClients(x.webRoutes().mux())
			}
			s := httptest.NewUnstartedServer(handler)
			limitConnections(s.Config, func() int { return limit })
			s.Start()
			t.Cleanup(s.Close)
			var kept []net.Conn
			for range limit {
				c := dialRaw(t, s, tt.request)
				answer(t, c)
				kept = append(kept, c)
			}
			for range 2 * limit {
				c := dialRaw(t, s, "")
				if !tt.kept {
					continue
				}
				if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
					t.Fatalf("connection beyond the limit: %v", err)
				}
			}
			if tt.kept {
				for _, c := range kept {
					if _, err := io.WriteString(c, tt.request); err != nil {
						t.Fatal(err)
					}
					answer(t, c)
				}
				return
			}
			for _, c := range kept {
				if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
					t.Errorf("unauthenticated connection: %v", err)
				}
			}
		})
	}
}

// answer reads a response of any status.
func answer(t *testing.T, c net.Conn) {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
}

// The connection limit follows the limit of descriptors.
func TestConnectionLimit(t *testing.T) {
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	}()
	for files, want := range map[uint64]int{400: 100, 256: 64, 4096: maxConnections} {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		if got := connectionLimit(); got != want {
			t.Errorf("%d descriptors: limit is %d, want %d", files, got, want)
		}
	}
}
