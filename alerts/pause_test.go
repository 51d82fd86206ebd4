package alerts

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/hangup"
)

func TestPause(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	post := func(path string) int {
		t.Helper()
		req := newRequest(nil)
		req.URL.Path = path
		handler := map[string]http.Handler{"/-/pause": f.PauseHandler(), "/-/resume": f.ResumeHandler()}[path]
		return send(t, handler, req).code
	}
	body := notify(staleAlert("10.0.0.5", "80"))
	if code := post("/-/pause"); code != 200 || !f.Paused() {
		t.Fatalf("pause: code %d", code)
	}
	got := f.post(t, body)
	got.want(t, 503, nil)
	if got.response.Error != "paused by request" {
		t.Errorf("got %s", got.text)
	}
	if seen := f.hang.seen(); len(seen) > 0 {
		t.Errorf("actions: %v", seen)
	}
	if code := post("/-/resume"); code != 200 || f.Paused() {
		t.Fatalf("resume: code %d", code)
	}
	f.post(t, body).want(t, 200, map[string]int{resultDone: 1})
	for _, handler := range []http.Handler{f.PauseHandler(), f.ResumeHandler()} {
		req := newRequest(nil)
		req.Header.Del("Authorization")
		if got := send(t, handler, req); got.code != 401 || f.Paused() {
			t.Errorf("without a token: code %d, paused %t", got.code, f.Paused())
		}
		req = newRequest(nil)
		req.Method = http.MethodGet
		if got := send(t, handler, req); got.code != 405 {
			t.Errorf("GET: code %d", got.code)
		}
	}
}

func TestPauseFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pause")
	f := newFixture(t, DefaultRules(), func(c *Config) { c.PauseFile = file })
	body := notify(staleAlert("10.0.0.5", "80"))
	writeFile(t, file, "")
	f.post(t, body).want(t, 503, nil)
	if got := send(t, f.ResumeHandler(), newRequest(nil)); got.code != http.StatusConflict {
		t.Errorf("resume with the file there: code %d", got.code)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	f.post(t, body).want(t, 200, map[string]int{resultDone: 1})

	// A dangling link exists; a file that cannot be examined counts as existing.
	if err := os.Symlink("nowhere", file); err != nil {
		t.Fatal(err)
	}
	f.post(t, body).want(t, 503, nil)
	f = newFixture(t, DefaultRules(), func(c *Config) { c.PauseFile = writeTokens(t) + "/pause" })
	f.post(t, body).want(t, 503, nil)
}

// A pause cancels running actions, and the next notification continues them.
func TestPauseDuringAction(t *testing.T) {
	tests := []struct {
		name   string
		pause  func(f *fixture, file string)
		resume func(f *fixture, file string)
	}{
		{
			"by request",
			func(f *fixture, _ string) { f.Pause() },
			func(f *fixture, _ string) { _ = f.Resume() },
		},
		{
			"by file",
			func(_ *fixture, file string) { _ = os.WriteFile(file, nil, 0o600) },
			func(_ *fixture, file string) { _ = os.Remove(file) },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pause")
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, DefaultRules(), func(c *Config) { c.PauseFile = file })
				f.hang.hangUp = func(ctx context.Context, a hangup.Request) (*hangup.Report, error) {
					r, _ := blockUntilCancelled(ctx, a)
					return r, context.Cause(ctx)
				}
				begun := time.Now()
				time.AfterFunc(time.Second, func() { tt.pause(f, file) })
				got := f.post(t, notify(staleAlert("10.0.0.5", "80"), staleAlert("10.0.0.6", "80")))
				got.want(t, 503, map[string]int{resultPaused: 2})
				if took := time.Since(begun); took > 2*time.Second {
					t.Errorf("took %s", took)
				}
				f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 503, nil)
				tt.resume(f, file)
				f.hang.hangUp = nil
				f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
			})
		})
	}
}

// A pause file takes effect before the next action, not only at the next check.
func TestPauseFileBetweenActions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pause")
	f := newFixture(t, DefaultRules(), func(c *Config) { c.PauseFile, c.MaxActions = file, 1 })
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) {
		writeFile(t, file, "")
		return outcome(hangup.Closed, 1), nil
	}
	f.post(t, notify(staleAlert("10.0.0.5", "80"), staleAlert("10.0.0.6", "80"))).
		want(t, 503, map[string]int{resultDone: 1, resultPaused: 1})
}
