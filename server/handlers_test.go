package server

import (
	"cmp"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/exporter-toolkit/web"
)

// Processes and peers are visible to local or authenticated clients only.
func TestLocal(t *testing.T) {
	users := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(users, []byte("basic_auth_users: {user: "+passwordHash+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(open, []byte("http_server_config: {http2: false}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		client, host, header, config string
		code                         int
		node                         bool
	}{
		{client: "127.0.0.1:1234", code: http.StatusOK},
		{client: "127.8.9.10:1234", code: http.StatusOK},
		{client: "[::1]:1234", code: http.StatusOK},
		{client: "[::ffff:127.0.0.1]:1234", code: http.StatusOK},
		{client: "127.0.0.1:1234", host: "LOCALHOST", code: http.StatusOK},
		{client: "127.0.0.1:1234", host: "127.0.0.1", code: http.StatusOK},
		{client: "[::1]:1234", host: "[::1]:10471", code: http.StatusOK},
		{client: "10.0.0.1:1234", code: http.StatusForbidden},
		{client: "[2001:db8::1]:1234", code: http.StatusForbidden},
		{client: "nonsense", code: http.StatusForbidden},
		// DNS rebinding.
		{client: "127.0.0.1:1234", host: "rebound.example:10471", code: http.StatusForbidden},
		{client: "127.0.0.1:1234", host: "localhost.example", code: http.StatusForbidden},
		{client: "127.0.0.1:1234", host: "127.0.0.1.example:10471", code: http.StatusForbidden},
		// Proxies.
		{client: "127.0.0.6:1234", host: "10.0.0.7:10471", code: http.StatusForbidden},
		{client: "127.0.0.1:1234", header: "X-Forwarded-For", code: http.StatusForbidden},
		{client: "127.0.0.1:1234", header: "X-Forwarded-Proto", code: http.StatusForbidden},
		{client: "127.0.0.1:1234", header: "Forwarded", code: http.StatusForbidden},
		{client: "127.0.0.1:1234", header: "X-Real-IP", code: http.StatusForbidden},
		{client: "127.0.0.1:1234", header: "via", code: http.StatusForbidden},
		{client: "127.0.0.1:1234", header: "X-Prometheus-Scrape-Timeout-Seconds", code: http.StatusOK},
		{client: "10.0.0.1:1234", config: open, code: http.StatusForbidden},
		{client: "10.0.0.1:1234", config: "/nonexistent", code: http.StatusForbidden},
		{client: "10.0.0.1:1234", config: users, code: http.StatusOK},
		{client: "127.0.0.1:1234", host: "proxied.example", header: "X-Forwarded-For", config: users, code: http.StatusOK},
		// In node mode any pod with the network of the node is local.
		{client: "127.0.0.1:1234", node: true, code: http.StatusForbidden},
		{client: "127.0.0.1:1234", node: true, config: open, code: http.StatusForbidden},
		{client: "127.0.0.1:1234", node: true, config: users, code: http.StatusOK},
		{client: "10.0.0.1:1234", node: true, config: users, code: http.StatusOK},
	} {
		x := &server{options: Options{Web: &web.FlagConfig{WebConfigFile: &tt.config}, Node: NodeOptions{Enabled: tt.node}}}
		request := httptest.NewRequest(http.MethodGet, "/api/v1/flows", nil)
		request.RemoteAddr, request.Host = tt.client, cmp.Or(tt.host, "localhost:10471")
		if tt.header != "" {
			request.Header.Set(tt.header, "10.0.0.1")
		}
		response := httptest.NewRecorder()
		x.local(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(response, request)
		if response.Code != tt.code {
			t.Errorf("%+v: code %d", tt, response.Code)
		}
	}
}

// The metrics server is read-only.
func TestMetricsServerRejectsPost(t *testing.T) {
	x := testServer(t, Options{})
	mux := x.webRoutes().mux()
	for pattern := range x.webRoutes() {
		path := strings.TrimSuffix(strings.TrimPrefix(pattern, "GET "), "{$}")
		response := httptest.NewRecorder()
		mux.ServeHTTP(response, httptest.NewRequest(http.MethodPost, path, nil))
		if allow := response.Header().Get("Allow"); response.Code != http.StatusMethodNotAllowed || allow != "GET, HEAD" {
			t.Errorf("POST %s: code %d, Allow %q", path, response.Code, allow)
		}
	}
}

// The table of HTTP paths in docs/reference.md matches the routes.
func TestDocumentedPaths(t *testing.T) {
	x := testServer(t, Options{})
	var served, documented []string
	for pattern := range x.webRoutes() {
		served = append(served, strings.TrimSuffix(pattern, "{$}"))
	}
	for pattern := range x.alertRoutes() {
		served = append(served, "POST "+pattern)
	}
	reference, err := os.ReadFile(filepath.Join("..", "docs", "reference.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:GET|POST) /[^`]*)` \\|").FindAllStringSubmatch(string(reference), -1) {
		documented = append(documented, m[1])
	}
	slices.Sort(served)
	slices.Sort(documented)
	if diff := gocmp.Diff(served, documented); diff != "" {
		t.Errorf("paths (-served +in docs/reference.md):\n%s", diff)
	}
}

// Paths are not redirected to their clean form.
func TestAlertPaths(t *testing.T) {
	x := testServer(t, Options{AlertsAddress: "127.0.0.1:0"})
	for path, want := range map[string]int{"/alerts": http.StatusMethodNotAllowed, "//alerts": http.StatusNotFound, "/./alerts": http.StatusNotFound, "/alerts/": http.StatusNotFound, "/": http.StatusNotFound} {
		w := httptest.NewRecorder()
		x.alertRoutes().exact().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil))
		if w.Code != want {
			t.Errorf("%s: status %d, want %d", path, w.Code, want)
		}
	}
}
