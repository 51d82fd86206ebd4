package server

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tcphup/config"
)

// policyFile returns a configuration with one policy.
func policyFile(name string) string {
	return "policies: [{name: " + name + ", match: ['a=\"b\"'], allow: [10.0.0.0/8]}]\n"
}

// Warnings about the configuration are logged when the file is read.
func TestConfigurationWarning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tcphup.yml")
	if err := os.WriteFile(path, []byte("policies: [{name: a, match: [\"b='c'\"], allow: [10.0.0.0/8]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	testServer(t, Options{ConfigFile: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if !strings.Contains(log.String(), "configuration warning") || !strings.Contains(log.String(), path+":1: match: the quotes") {
		t.Errorf("log: %s", log.String())
	}
}

// Overlapping reloads run one after the other. The file that was read last is in force,
// and each result belongs to the file that the reload has read.
func TestOverlappingReloads(t *testing.T) {
	for _, tt := range []struct {
		name, first, second string
		firstFails          bool
		code                int // of the second reload
		want                string
	}{
		{name: "both valid", first: policyFile("first"), second: policyFile("second"), code: http.StatusOK, want: "second"},
		{name: "second invalid", first: policyFile("first"), second: "policies: 1\n", code: http.StatusInternalServerError, want: "first"},
		{name: "first invalid", first: "policies: 1\n", firstFails: true, second: policyFile("second"), code: http.StatusOK, want: "second"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tcphup.yml")
			write := func(content string) {
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(policyFile("start"))
			x := testServer(t, Options{ConfigFile: path})
			firstRead, proceed := make(chan struct{}), make(chan struct{})
			var reads atomic.Int32
			x.readConfig = func(path string) (config.Config, error) {
				c, err := config.Load(path)
				if reads.Add(1) == 1 {
					close(firstRead)
					<-proceed
				}
				return c, err
			}

			write(tt.first)
			first, second := make(chan bool, 1), make(chan int, 1)
			go func() { first <- x.reload() }()
			<-firstRead
			write(tt.second)
			go func() {
				response := httptest.NewRecorder()
				x.handleReload(response, httptest.NewRequest(http.MethodPost, "/-/reload", nil))
				second <- response.Code
			}()
			// The second reload must wait for the first one, which is blocked after its read.
			code := 0
			select {
			case code = <-second:
				t.Error("the second reload overtook the first one")
			case <-time.After(200 * time.Millisecond):
			}
			close(proceed)
			if ok := <-first; ok == tt.firstFails {
				t.Errorf("first reload: success %t", ok)
			}
			if code == 0 {
				code = <-second
			}
			if code != tt.code {
				t.Errorf("second reload: code %d, want %d", code, tt.code)
			}
			var names []string
			for _, p := range x.receiver.Status().Policies {
				names = append(names, p.Name)
			}
			if diff := cmp.Diff([]string{tt.want}, names); diff != "" {
				t.Errorf("policies in force (-want +got):\n%s", diff)
			}
			if got := testutil.ToFloat64(x.reloads.successful) == 1; got != (tt.code == http.StatusOK) {
				t.Errorf("last reload exported as successful: %t", got)
			}
		})
	}
}

// Ready and the metric name the file in force by its hash, after a failed reload too.
func TestConfigInForce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tcphup.yml")
	hash := func(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content)))[:12] }
	check := func(x *server, hash string) {
		t.Helper()
		ready := httptest.NewRecorder()
		x.webRoutes().mux().ServeHTTP(ready, httptest.NewRequest(http.MethodGet, "/-/ready", nil))
		loaded := time.Unix(int64(testutil.ToFloat64(x.reloads.time)), 0).UTC().Format(time.RFC3339)
		if want := "tcphup is ready.\nconfiguration: sha256 " + hash + ", loaded at " + loaded + "\n"; ready.Body.String() != want {
			t.Errorf("ready: %q, want %q", ready.Body, want)
		}
		if testutil.CollectAndCount(x.reloads.info) != 1 || testutil.ToFloat64(x.reloads.info.WithLabelValues(hash)) != 1 {
			t.Errorf("no metric with the hash %s alone", hash)
		}
	}
	check(testServer(t, Options{}), "none")
	load := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load(policyFile("first"))
	x := testServer(t, Options{ConfigFile: path})
	check(x, hash(policyFile("first")))
	for _, content := range []string{policyFile("second"), "policies: 1\n"} {
		load(content)
		x.reload()
		check(x, hash(policyFile("second")))
	}
}
