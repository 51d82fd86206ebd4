package alerts

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/hangup"
)

// overlapGuard fails the test when two actions on the same flows run at once.
type overlapGuard struct {
	t       *testing.T
	mu      sync.Mutex
	running []hangup.Request
	most    int
}

func (g *overlapGuard) hangUp(ctx context.Context, a hangup.Request) (*hangup.Report, error) {
	g.mu.Lock()
	for _, other := range g.running {
		ports := len(a.Selector.Ports) == 0 || len(other.Selector.Ports) == 0 ||
			slices.ContainsFunc(a.Selector.Ports, func(p uint16) bool { return slices.Contains(other.Selector.Ports, p) })
		if ports && slices.ContainsFunc(a.Selector.Destinations, func(p netip.Prefix) bool {
			return slices.ContainsFunc(other.Selector.Destinations, p.Overlaps)
		}) {
			g.t.Errorf("%v runs while %v does", a.Selector, other.Selector)
		}
	}
	g.running = append(g.running, a)
	g.most = max(g.most, len(g.running))
	g.mu.Unlock()
	select {
	case <-time.After(100 * time.Millisecond): // the bubble's clock, no real time passes
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.running, func(other hangup.Request) bool {
		return &other.Selector.Destinations[0] == &a.Selector.Destinations[0]
	})
	g.running = slices.Delete(g.running, i, i+1)
	return outcome(hangup.Closed, 1), nil
}

// The same destination is never worked on twice at once, by no policy and by no
// prefix that overlaps; others are, within the bound.
func TestSerialised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := DefaultRules()
		wide := Labelled()
		wide.Name = "wide"
		wide.Match = mustMatch(t, `tcphup="network"`)
		wide.Allow = Allow{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		rules.Policies = append(rules.Policies, wide)
		for i := range rules.Policies {
			rules.Policies[i].Limits.Cooldown = 0
			rules.Policies[i].Limits.Breaker = Breaker{}
			rules.Policies[i].Limits.MaxAlertAge = 0
		}
		f := newFixture(t, rules, func(c *Config) { c.MaxActions = 2 })
		guard := &overlapGuard{t: t}
		f.hang.hangUp = guard.hangUp
		network := func(destination, port string) testAlert {
			a := staleAlert(destination, port)
			a.Labels["tcphup"] = "network"
			return a
		}
		var wait sync.WaitGroup
		for i := range 30 {
			body := notify(
				staleAlert("10.0.1.5", "80"), network("10.0.1.5", "81"), staleAlert("10.0.0.5", "80"),
				staleAlert("::ffff:10.0.0.5", "80"), staleAlert("10.0.0.5", ""), network("10.0.0.0/24", "80"),
			)
			wait.Go(func() {
				if got := f.post(t, body); got.code != 200 && got.code != 503 {
					t.Errorf("notification %d: %d %s", i, got.code, got.text)
				}
			})
		}
		wait.Wait()
		if guard.most != 2 {
			t.Errorf("%d actions ran at once, want 2 at most", guard.most)
		}
		if n := len(f.claims.held); n != 0 {
			t.Errorf("%d claims are still held", n)
		}
	})
}

// The twin of a highly available pair waits and finds the work done.
func TestTwins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), nil)
		f.hang.hangUp = (&overlapGuard{t: t}).hangUp
		results := make(chan map[string]int, 2)
		for range 2 {
			go func() { results <- f.post(t, notify(staleAlert("10.0.0.5", "80"))).answer.Alerts }()
		}
		first, second := <-results, <-results
		if first[resultDone]+second[resultDone] != 1 || first[resultCooldown]+second[resultCooldown] != 1 {
			t.Errorf("got %v and %v", first, second)
		}
		if n := len(f.hang.seen()); n != 1 {
			t.Errorf("hung up %d times", n)
		}
	})
}

// untilDone hangs up for as long as it may.
func untilDone(ctx context.Context, _ hangup.Request) (*hangup.Report, error) {
	<-ctx.Done()
	return unfinished(2, 3), nil
}

// The answer comes before Alertmanager gives up, and says what is left.
func TestTimeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), func(c *Config) { c.MaxActions = 1; c.Timeout = 9 * time.Second })
		f.hang.hangUp = untilDone
		begun := time.Now()
		const alerts = 20
		got := f.post(t, notify(slices.Repeat([]testAlert{staleAlert("10.0.0.5", "80"), staleAlert("10.0.0.6", "80")}, alerts/2)...))
		got.want(t, 503, map[string]int{resultUnfinished: alerts})
		if got.answer.Flows[hangup.Closed] != 2 || got.answer.Unfinished != 3 {
			t.Errorf("got %s", got.text)
		}
		if took := time.Since(begun); took < 8*time.Second || took >= 9*time.Second {
			t.Errorf("took %s", took)
		}
		if n := len(f.hang.seen()); n != 1 {
			t.Errorf("%d actions, want 1: the others had no time left", n)
		}
	})
}

// A sender that hangs up itself ends its action; what is left is left for its
// next try.
func TestSenderGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), nil)
		f.hang.hangUp = untilDone
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		send(t, f, newRequest(notify(staleAlert("10.0.0.5", "80"))).WithContext(ctx)).
			want(t, 503, map[string]int{resultUnfinished: 1})
		f.hang.hangUp = nil
		f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
	})
}

// Notifications over the limit wait for a slot and get 503 when their time is over.
// The running actions outlast them: on one deadline for all, a freed slot and the end
// of the wait coincide, and select takes either.
func TestNotificationBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), func(c *Config) { c.MaxNotifications = 2 })
		finish := make(chan struct{})
		f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) {
			<-finish
			return outcome(hangup.Closed, 1), nil
		}
		var running, waiting sync.WaitGroup
		for _, destination := range []string{"10.0.0.1", "10.0.0.2"} {
			running.Go(func() {
				f.post(t, notify(staleAlert(destination, "80"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
			})
		}
		synctest.Wait()
		for range 3 {
			waiting.Go(func() {
				got := f.post(t, notify(staleAlert("10.0.0.3", "80")))
				got.want(t, http.StatusServiceUnavailable, nil)
				if got.answer.Error != "too many notifications at once" {
					t.Errorf("error %q", got.answer.Error)
				}
			})
		}
		waiting.Wait()
		close(finish)
		running.Wait()
		if n := len(f.hang.seen()); n != 2 {
			t.Errorf("%d actions, want 2", n)
		}
		f.post(t, notify(staleAlert("10.0.0.3", "80"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
	})
}

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
	if got.answer.Error != "paused by request" {
		t.Errorf("got %s", got.text)
	}
	if seen := f.hang.seen(); len(seen) > 0 {
		t.Errorf("was hung up: %v", seen)
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

	// A link to nowhere is there too, and a file that cannot be looked at may be.
	if err := os.Symlink("nowhere", file); err != nil {
		t.Fatal(err)
	}
	f.post(t, body).want(t, 503, nil)
	f = newFixture(t, DefaultRules(), func(c *Config) { c.PauseFile = writeTokens(t) + "/pause" })
	f.post(t, body).want(t, 503, nil)
}

// A pause ends what is under way, and the next try goes on with it.
func TestPauseDuringAction(t *testing.T) {
	tests := []struct {
		name  string
		pause func(f *fixture, file string)
		goOn  func(f *fixture, file string)
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
					r, _ := untilDone(ctx, a)
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
				tt.goOn(f, file)
				f.hang.hangUp = nil
				f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
			})
		})
	}
}

// The pause file counts from the moment it is there, not from when it is looked for.
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

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), nil)
		f.hang.hangUp = (&overlapGuard{t: t}).hangUp
		first := make(chan reply)
		go func() { first <- f.post(t, notify(staleAlert("10.0.0.5", "80"))) }()
		synctest.Wait()
		f.Stop()
		f.post(t, notify(staleAlert("10.0.0.6", "80"))).want(t, 503, nil)
		got := <-first
		got.want(t, 200, map[string]int{resultDone: 1}) // what had begun ends as it should
	})
}

// Reloading while notifications arrive: every alert is decided by one set of rules,
// and bad rules change nothing.
func TestReload(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	if err := f.Reload(Rules{Policies: []Policy{{Name: "everything"}}}); err == nil {
		t.Fatal("a policy without match and allow was accepted")
	}
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for range 20 {
				if i%2 == 0 {
					if err := f.Reload(DefaultRules()); err != nil {
						t.Error(err)
					}
					continue
				}
				f.post(t, notify(staleAlert("10.0.0.5", "80")))
			}
		})
	}
	wait.Wait()
	if n := len(f.hang.seen()); n != 1 {
		t.Errorf("hung up %d times, want 1: a reload must not forget the cooldown", n)
	}
	if err := f.Reload(Rules{}); err != nil {
		t.Fatal(err)
	}
	f.post(t, notify(staleAlert("10.0.0.6", "80"))).want(t, 200, map[string]int{resultUnmatched: 1})
}

// A caller's error that has nothing to do with time is not taken for the end of
// the time.
func TestErrorBeforeTimeOver(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) {
		return nil, errors.New("dump interrupted")
	}
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 503, map[string]int{resultError: 1})
	f.hang.hangUp = nil
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
}
