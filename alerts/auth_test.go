package alerts

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tcphup/hangup"
)

// Rotation: add the new token, change the sender, remove the old token.
func TestTokenRotation(t *testing.T) {
	path := writeTokens(t, "# tokens of the two Alertmanagers", "", testToken)
	f := newFixture(t, DefaultRules(), func(c *Config) { c.TokenFile = path })
	code := func(token string) int {
		t.Helper()
		req := newRequest(notify(staleAlert("10.0.0.5", "80")))
		req.Header.Set("Authorization", "bearer "+token)
		return send(t, f, req).code
	}
	steps := []struct {
		file       string // empty: no file
		mode       os.FileMode
		first, new int
	}{
		{testToken + "\n", 0o600, 200, 401},
		{testToken + "\r\n" + otherToken + "\r\n", 0o640, 200, 200},
		{otherToken, 0o400, 401, 200},
		{"", 0, 503, 503},                             // during a rename: the sender retries
		{"\n# none\n", 0o600, 503, 503},               // partially written
		{otherToken + "\n", 0o644, 503, 503},          // readable by every user
		{otherToken + "\nshort\n", 0o600, 503, 503},   // an invalid line is an error
		{otherToken + "\n", 0o600, 401, 200},          // repaired
		{"  " + testToken + "  \n", 0o600, 200, 401},  // surrounding spaces are trimmed
		{strings.Repeat("#", 70000), 0o600, 503, 503}, // not a token file
	}
	for i, step := range steps {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if step.file != "" {
			writeFile(t, path, step.file)
			if err := os.Chmod(path, step.mode); err != nil {
				t.Fatal(err)
			}
		} else {
			t.Cleanup(func() { _ = os.Remove(path) })
		}
		if got := [2]int{code(testToken), code(otherToken)}; got != [2]int{step.first, step.new} {
			t.Errorf("step %d: codes %v, want %d and %d", i, got, step.first, step.new)
		}
		if step.file == "" {
			writeFile(t, path, "x")
		}
	}
}

func TestTokenFileRefused(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path, content string
		mode                os.FileMode
		want                string
	}{
		{"missing", filepath.Join(dir, "missing"), "", 0, "no such file"},
		{"directory", dir, "", 0, "is a directory"},
		{"fifo", fifo, "", 0, "not a regular file"},
		{"world-readable", "", testToken, 0o604, "accessible to other users (mode 0604)"},
		{"world-writable", "", testToken, 0o602, "accessible to other users"},
		{"group-writable", "", testToken, 0o660, "writable by its group"},
		{"empty", "", "", 0o600, "no token"},
		{"short", "", testToken + "\nabc\n", 0o600, "tokens:2: token has 3 characters"},
		{"two words", "", testToken + " " + otherToken, 0o600, "tokens:1: character 33"},
		{"not ASCII", "", strings.Repeat("é", 20), 0o600, "tokens:1: character 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := tt.path
			if path == "" {
				path = filepath.Join(t.TempDir(), "tokens")
				writeFile(t, path, tt.content)
				if err := os.Chmod(path, tt.mode); err != nil {
					t.Fatal(err)
				}
			}
			_, err := NewReceiver(Config{TokenFile: path}, DefaultRules(), new(fakeHangUpper), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), testToken) {
				t.Errorf("the error contains a token: %v", err)
			}
		})
	}
}

// Wrong tokens never start an action.
func TestTokenGuesses(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	for i := range 1000 {
		req := newRequest(notify(staleAlert("10.0.0.5", "80")))
		guess := testToken[:i%len(testToken)] + strings.Repeat("x", 1+i%7)
		req.Header.Set("Authorization", "Bearer "+guess)
		if got := send(t, f, req); got.code != http.StatusUnauthorized {
			t.Fatalf("%q: code %d", guess, got.code)
		}
	}
	if seen := f.hang.seen(); len(seen) > 0 {
		t.Errorf("actions: %v", seen)
	}
}

// The body of an unauthorized request is not read.
func TestUnauthorizedBodyUnread(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	for _, h := range []http.Handler{f, f.PauseHandler(), f.ResumeHandler()} {
		req := newRequest(nil)
		req.Header.Set("Authorization", "Bearer "+otherToken)
		req.Body = io.NopCloser(readerFunc(func([]byte) (int, error) {
			t.Error("body read")
			return 0, io.EOF
		}))
		if got := send(t, h, req); got.code != http.StatusUnauthorized {
			t.Errorf("code %d", got.code)
		}
	}
}

// Without credentials and with shadow set, flows are planned and none is closed.
func TestShadow(t *testing.T) {
	tests := []struct {
		name   string
		config func(*Config)
		policy func(*Policy)
		shadow bool
	}{
		{"token", nil, nil, false},
		{"listener", func(c *Config) { c.TokenFile, c.CheckListener = "", authenticates }, nil, false},
		{"none", func(c *Config) { c.TokenFile = "" }, nil, true},
		{"asked for", func(c *Config) { c.Shadow = true }, nil, true},
		{"by policy", nil, func(p *Policy) { p.Shadow = true }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules := DefaultRules()
			if tt.policy != nil {
				tt.policy(&rules.Policies[0])
			}
			f := newFixture(t, rules, tt.config)
			got := f.post(t, notify(staleAlert("10.0.0.5", "80")))
			result, flow := resultDone, hangup.Closed
			if tt.shadow {
				result, flow = resultShadow, hangup.Planned
			}
			if got.code != 200 || got.response.Alerts[result] != 1 || got.response.Flows[flow] != 2 {
				t.Errorf("got %d %s", got.code, got.text)
			}
			if a := f.hang.actions[0]; a.DryRun != tt.shadow {
				t.Errorf("dry run %t", a.DryRun)
			}
			// A plan starts no cooldown.
			got = f.post(t, notify(staleAlert("10.0.0.5", "80")))
			if want := map[bool]string{true: resultShadow, false: resultCooldown}[tt.shadow]; got.response.Alerts[want] != 1 {
				t.Errorf("second time: %s", got.text)
			}
		})
	}
}

// A web configuration without users rejects requests.
func TestListenerLosesCredentials(t *testing.T) {
	var lost error
	f := newFixture(t, DefaultRules(), func(c *Config) {
		c.TokenFile = ""
		c.CheckListener = func() error { return lost }
	})
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
	lost = errors.New("no users")
	f.post(t, notify(staleAlert("10.0.0.6", "80"))).want(t, 503, nil)
	if got := send(t, f.ResumeHandler(), newRequest(nil)); got.code != 503 {
		t.Errorf("resume: code %d", got.code)
	}
	if n := len(f.hang.seen()); n != 1 {
		t.Errorf("%d actions, want 1", n)
	}
}

// authenticates is the CheckListener of a listener with client certificates.
func authenticates() error { return nil }
