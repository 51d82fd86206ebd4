package alerts

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// overlapChecker fails the test if actions on overlapping targets run concurrently.
type overlapChecker struct {
	t       *testing.T
	mu      sync.Mutex
	running []hangup.Request
	most    int
}

func (g *overlapChecker) hangUp(ctx context.Context, a hangup.Request) (*hangup.Report, error) {
	g.mu.Lock()
	for _, other := range g.running {
		ports := len(a.Selector.Ports) == 0 || len(other.Selector.Ports) == 0 ||
			slices.ContainsFunc(a.Selector.Ports, func(p sockdiag.PortRange) bool { return slices.Contains(other.Selector.Ports, p) })
		if ports && slices.ContainsFunc(a.Selector.Destinations, func(p netip.Prefix) bool {
			return slices.ContainsFunc(other.Selector.Destinations, p.Overlaps)
		}) {
			g.t.Errorf("%v overlaps the running %v", a.Selector, other.Selector)
		}
	}
	g.running = append(g.running, a)
	g.most = max(g.most, len(g.running))
	g.mu.Unlock()
	select {
	case <-time.After(100 * time.Millisecond): // fake clock
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

// Actions on overlapping destinations never run concurrently, across policies and
// prefixes; other actions do, up to MaxActions.
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
		guard := &overlapChecker{t: t}
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
			t.Errorf("%d concurrent actions, want 2", guard.most)
		}
		if n := len(f.locks.held); n != 0 {
			t.Errorf("%d targets still locked", n)
		}
	})
}

// The second notification of a highly available pair waits and gets the result cooldown.
func TestHAPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), nil)
		f.hang.hangUp = (&overlapChecker{t: t}).hangUp
		results := make(chan map[string]int, 2)
		for range 2 {
			go func() { results <- f.post(t, notify(staleAlert("10.0.0.5", "80"))).response.Alerts }()
		}
		first, second := <-results, <-results
		if first[resultDone]+second[resultDone] != 1 || first[resultCooldown]+second[resultCooldown] != 1 {
			t.Errorf("got %v and %v", first, second)
		}
		if n := len(f.hang.seen()); n != 1 {
			t.Errorf("%d actions, want 1", n)
		}
	})
}

// blockUntilCancelled runs until ctx ends and leaves flows unfinished.
func blockUntilCancelled(ctx context.Context, _ hangup.Request) (*hangup.Report, error) {
	<-ctx.Done()
	return unfinished(2, 3), nil
}

// The response arrives before Alertmanager's timeout and counts the remaining flows.
func TestTimeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), func(c *Config) { c.MaxActions = 1; c.Timeout = 9 * time.Second })
		f.hang.hangUp = blockUntilCancelled
		begun := time.Now()
		const alerts = 20
		got := f.post(t, notify(slices.Repeat([]testAlert{staleAlert("10.0.0.5", "80"), staleAlert("10.0.0.6", "80")}, alerts/2)...))
		got.want(t, 503, map[string]int{resultUnfinished: alerts})
		if got.response.Flows[hangup.Closed] != 2 || got.response.Unfinished != 3 {
			t.Errorf("got %s", got.text)
		}
		if took := time.Since(begun); took < 8*time.Second || took >= 9*time.Second {
			t.Errorf("took %s", took)
		}
		if n := len(f.hang.seen()); n != 1 {
			t.Errorf("%d actions, want 1", n)
		}
	})
}

// A canceled request ends its action; the next notification continues it.
func TestSenderGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), nil)
		f.hang.hangUp = blockUntilCancelled
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
				if got.response.Error != "too many notifications at once" {
					t.Errorf("error %q", got.response.Error)
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

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), nil)
		f.hang.hangUp = (&overlapChecker{t: t}).hangUp
		first := make(chan reply)
		go func() { first <- f.post(t, notify(staleAlert("10.0.0.5", "80"))) }()
		synctest.Wait()
		f.Stop()
		f.post(t, notify(staleAlert("10.0.0.6", "80"))).want(t, 503, nil)
		got := <-first
		got.want(t, 200, map[string]int{resultDone: 1}) // a running action finishes
	})
}

// Reload concurrently with notifications: one set of rules decides each alert, and invalid
// rules keep the old ones.
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
		t.Errorf("%d actions, want 1: cooldown lost by a reload", n)
	}
	if err := f.Reload(Rules{}); err != nil {
		t.Fatal(err)
	}
	f.post(t, notify(staleAlert("10.0.0.6", "80"))).want(t, 200, map[string]int{resultUnmatched: 1})
}

// An error before the deadline is not a timeout.
func TestErrorBeforeTimeOver(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) {
		return nil, errors.New("dump interrupted")
	}
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 503, map[string]int{resultError: 1})
	f.hang.hangUp = nil
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
}
