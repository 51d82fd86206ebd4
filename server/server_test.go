package server

import (
	"bytes"
	"cmp"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/exporter-toolkit/web"

	"tcphup/alerts"
)

// testServer returns a server without listeners.
func testServer(t *testing.T, o Options) *server {
	t.Helper()
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	x := newServer(o)
	closeAudit, err := x.openAudit()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeAudit)
	c, err := x.load()
	if err == nil {
		err = x.build(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.actuator.Close)
	return x
}

// The log and the status page show the same mode.
func TestMode(t *testing.T) {
	dir := t.TempDir()
	token, file := filepath.Join(dir, "token"), filepath.Join(dir, "tcphup.yml")
	if err := os.WriteFile(token, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, address, token, content string
		want                          alerts.Mode
	}{
		{name: "no listener", token: token, content: policyFile("a"), want: alerts.ModeExporter},
		{name: "no credentials", address: "127.0.0.1:0", content: policyFile("a"), want: alerts.ModeShadow},
		{name: "no policy", address: "127.0.0.1:0", token: token, content: "policies: []\n", want: alerts.ModeShadow},
		{name: "a policy", address: "127.0.0.1:0", token: token, content: policyFile("a"), want: alerts.ModeArmed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			x := testServer(t, Options{
				Logger: slog.New(slog.NewTextHandler(&log, nil)), ConfigFile: file, AlertsAddress: tt.address,
				Alerts: alerts.Config{TokenFile: tt.token}, Web: &web.FlagConfig{WebConfigFile: new(string)},
			})
			x.logStart("none")
			if want := " mode=" + string(tt.want) + " "; !strings.Contains(log.String(), want) {
				t.Errorf("log without %q: %s", want, log.String())
			}
			page := httptest.NewRecorder()
			x.webRoutes().mux().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/", nil))
			if want := "<title>tcphup: " + string(tt.want); !strings.Contains(page.Body.String(), want) {
				t.Errorf("page without %q", want)
			}
		})
	}
}
