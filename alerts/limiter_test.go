package alerts

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/hangup"
	"tcphup/test/kit/nstest"
)

// want checks the status code and the results of the alerts.
func (r reply) want(t *testing.T, code int, results map[string]int) {
	t.Helper()
	if r.code != code {
		t.Errorf("code %d, want %d: %s", r.code, code, r.text)
	}
	if diff := cmp.Diff(results, r.response.Alerts); diff != "" {
		t.Errorf("alerts (-want +got):\n%s", diff)
	}
}

func TestCooldown(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	one := func(result string) {
		t.Helper()
		f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{result: 1})
	}
	one(resultDone)
	one(resultCooldown)
	f.advance(29 * time.Second)
	one(resultCooldown)
	f.post(t, notify(staleAlert("10.0.0.5", "81"))).want(t, 200, map[string]int{resultDone: 1})
	f.advance(time.Second)
	one(resultDone)
	// An action without closed flows starts no cooldown.
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) { return new(hangup.Report), nil }
	f.advance(time.Minute)
	one(resultDone)
	one(resultDone)
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) { return outcome(hangup.Gone, 3), nil }
	one(resultDone)
	one(resultDone)
}

func TestBreakerOfDestination(t *testing.T) {
	rules := DefaultRules()
	rules.Policies[0].Limits.Breaker = Breaker{Actions: 3, Window: time.Hour}
	f := newFixture(t, rules, nil)
	one := func(result string) {
		t.Helper()
		a := staleAlert("10.0.0.5", "80")
		a.StartsAt = f.clock().Format(time.RFC3339)
		f.post(t, notify(a)).want(t, 200, map[string]int{result: 1})
	}
	for range 3 {
		one(resultDone)
		f.advance(2 * time.Minute)
	}
	one(resultBreakerOpen)
	f.post(t, notify(staleAlert("10.0.0.6", "80"))).want(t, 200, map[string]int{resultDone: 1})
	if n := f.limiter.openBreakers(f.clock(), LabelledName); n != 1 {
		t.Errorf("%d breakers open, want 1", n)
	}
	// It stays open for Window, even after the first actions are older than that.
	f.advance(59 * time.Minute)
	one(resultBreakerOpen)
	f.advance(time.Minute)
	one(resultDone)
	if n := f.limiter.trips.Load(); n != 1 {
		t.Errorf("tripped %d times, want 1", n)
	}
	// Three actions per window never open it.
	f.advance(2 * time.Hour)
	for range 20 {
		one(resultDone)
		f.advance(20 * time.Minute)
	}
}

// Alerts for more destinations than the limit open the breaker, in one notification or in
// many.
func TestBreakerOfPolicy(t *testing.T) {
	rules := DefaultRules()
	rules.Policies[0].Limits.Breaker = Breaker{Destinations: 5, Window: time.Hour}
	t.Run("one notification", func(t *testing.T) {
		f := newFixture(t, rules, nil)
		f.post(t, manyAlerts(6)).want(t, 200, map[string]int{resultBreakerOpen: 6})
		f.post(t, manyAlerts(1)).want(t, 200, map[string]int{resultBreakerOpen: 1})
		if hung := f.hang.hung(); len(hung) > 0 {
			t.Errorf("actions: %v", hung)
		}
		f.advance(time.Hour)
		f.post(t, manyAlerts(5)).want(t, 200, map[string]int{resultDone: 5})
	})
	t.Run("one notification each", func(t *testing.T) {
		f := newFixture(t, rules, nil)
		for i := range 5 {
			f.post(t, notify(staleAlert(fmt.Sprintf("10.0.0.%d", i+1), "80"))).want(t, 200, map[string]int{resultDone: 1})
		}
		f.post(t, notify(staleAlert("10.0.0.9", "80"))).want(t, 200, map[string]int{resultBreakerOpen: 1})
		f.advance(2 * time.Minute)
		f.post(t, notify(staleAlert("10.0.0.1", "80"))).want(t, 200, map[string]int{resultBreakerOpen: 1})
		f.advance(time.Hour)
		f.post(t, notify(staleAlert("10.0.0.1", "80"))).want(t, 200, map[string]int{resultDone: 1})
	})
	t.Run("no matching flow", func(t *testing.T) {
		f := newFixture(t, rules, nil)
		f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) { return new(hangup.Report), nil }
		for i := range 20 {
			f.post(t, notify(staleAlert(fmt.Sprintf("10.0.0.%d", i+1), "80"))).want(t, 200, map[string]int{resultDone: 1})
		}
		if n := len(f.limiter.policies); n != 0 {
			t.Errorf("%d policies have state", n)
		}
	})
	t.Run("many flows of the same destination", func(t *testing.T) {
		f := newFixture(t, rules, nil)
		same := make([]testAlert, 50)
		for i := range same {
			same[i] = staleAlert("10.0.0.5", "80")
		}
		f.post(t, notify(same...)).want(t, 200, map[string]int{resultDone: 1, resultCooldown: 49})
	})
}

// A retry continues the action: without cooldown, with the rest of the drain deadline, and
// as one action for the breaker.
func TestUnfinishedGoesOn(t *testing.T) {
	rules := DefaultRules()
	p := &rules.Policies[0]
	p.Drain = Drain{Quiet: time.Second, Deadline: 20 * time.Second}
	p.Limits.Breaker = Breaker{Actions: 2, Window: time.Hour}
	f := newFixture(t, rules, nil)
	left := 5
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) {
		left--
		return unfinished(1, left), nil
	}
	body := notify(staleAlert("10.0.0.5", "80"))
	for range 4 {
		f.post(t, body).want(t, http.StatusServiceUnavailable, map[string]int{resultUnfinished: 1})
		f.advance(8 * time.Second)
	}
	f.post(t, body).want(t, 200, map[string]int{resultDone: 1})
	f.post(t, body).want(t, 200, map[string]int{resultCooldown: 1})
	var deadlines []time.Duration
	for _, a := range f.hang.actions {
		deadlines = append(deadlines, a.DrainDeadline)
	}
	want := []time.Duration{20 * time.Second, 12 * time.Second, 4 * time.Second, 0, 0}
	if diff := cmp.Diff(want, deadlines); diff != "" {
		t.Errorf("drain deadlines (-want +got):\n%s", diff)
	}
	f.advance(time.Minute)
	left = 1
	f.post(t, body).want(t, 200, map[string]int{resultDone: 1})
	f.advance(time.Minute)
	f.post(t, body).want(t, 200, map[string]int{resultBreakerOpen: 1})
}

// Flows that a lack of descriptors or memory left open are retried: no cooldown begins.
func TestExhaustedIsUnfinished(t *testing.T) {
	for _, cause := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		for _, shadow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, shadow %t", cause, shadow), func(t *testing.T) {
				rules := DefaultRules()
				rules.Policies[0].Shadow = shadow
				f := newFixture(t, rules, nil)
				r := outcome(hangup.Closed, 3)
				r.Results[1].Outcome, r.Results[1].Err = hangup.Failed, fmt.Errorf("open pidfd of process 7: %w", cause)
				f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) { return r, nil }
				body := notify(staleAlert("10.0.0.5", "80"))
				for range 2 {
					got := f.post(t, body)
					got.want(t, http.StatusServiceUnavailable, map[string]int{resultUnfinished: 1})
					if got.response.Unfinished != 1 {
						t.Errorf("unfinished flows: %d, want 1", got.response.Unfinished)
					}
				}
				r = outcome(hangup.Closed, 1)
				want := resultDone
				if shadow {
					want = resultShadow
				}
				f.post(t, body).want(t, 200, map[string]int{want: 1})
			})
		}
	}
}

// The cooldown starts at the end of an action, even if the last attempt closed no flow.
func TestCooldownAfterUnfinished(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	r := unfinished(1, 1)
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) { return r, nil }
	body := notify(staleAlert("10.0.0.5", "80"))
	f.post(t, body).want(t, 503, map[string]int{resultUnfinished: 1})
	r = outcome(hangup.Gone, 1)
	f.post(t, body).want(t, 200, map[string]int{resultDone: 1})
	f.post(t, body).want(t, 200, map[string]int{resultCooldown: 1})
}

// An old unfinished action does not shorten the drain deadline of a new one.
func TestUnfinishedExpires(t *testing.T) {
	rules := DefaultRules()
	rules.Policies[0].Drain = Drain{Quiet: time.Second, Deadline: time.Minute}
	f := newFixture(t, rules, nil)
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) { return unfinished(0, 1), nil }
	body := notify(staleAlert("10.0.0.5", "80"))
	for _, wait := range []time.Duration{0, 30 * time.Second, unfinishedFor + time.Second} {
		f.advance(wait)
		f.post(t, body).want(t, 503, map[string]int{resultUnfinished: 1})
	}
	var deadlines []time.Duration
	for _, a := range f.hang.actions {
		deadlines = append(deadlines, a.DrainDeadline)
	}
	if diff := cmp.Diff([]time.Duration{time.Minute, 30 * time.Second, time.Minute}, deadlines); diff != "" {
		t.Errorf("drain deadlines (-want +got):\n%s", diff)
	}
}

// Each alert of a notification has its own result, and one retryable result makes the
// status code 503.
func TestMixedNotification(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		if a.Selector.Destinations[0].Addr().String() == "10.0.0.6" {
			return unfinished(0, 7), nil
		}
		return outcome(hangup.Closed, 2), nil
	}
	resolved := staleAlert("10.0.0.9", "80")
	resolved.Status = "resolved"
	got := f.post(t, notify(staleAlert("10.0.0.5", "80"), staleAlert("10.0.0.6", "80"), staleAlert("other", ""), resolved))
	got.want(t, 503, map[string]int{
		resultDone: 1, resultUnfinished: 1, resultBadDestination: 1, resultResolved: 1,
	})
	want := `{"alerts":{"bad_destination":1,"done":1,"resolved":1,"unfinished":1},"flows":{"closed":2,"planned":7},"unfinished":7}` + "\n"
	if got.text != want {
		t.Errorf("got %s, want %s", got.text, want)
	}
}

// A changed wall clock affects the age of alerts only: cooldowns use the monotonic clock.
func TestClockSet(t *testing.T) {
	var set time.Duration // offset of the wall clock
	fixture := func(cooldown time.Duration) *fixture {
		rules := DefaultRules()
		rules.Policies[0].Limits.Cooldown = cooldown
		return newFixture(t, rules, func(c *Config) {
			c.Now = func() time.Time { return nstest.ClockSet(t, time.Now(), set) }
		})
	}
	about := func(destination string, age time.Duration) []byte {
		a := staleAlert(destination, "80")
		a.StartsAt = time.Now().Add(-age).UTC().Format(time.RFC3339Nano)
		return notify(a)
	}
	f := fixture(time.Minute)
	f.post(t, about("10.0.0.5", time.Minute)).want(t, 200, map[string]int{resultDone: 1})
	set = 10 * time.Minute
	f.post(t, about("10.0.0.5", time.Minute)).want(t, 200, map[string]int{resultCooldown: 1})
	set = 24 * time.Hour
	f.post(t, about("10.0.0.6", time.Minute)).want(t, 200, map[string]int{resultTooOld: 1})
	set = -10 * time.Minute
	f.post(t, about("10.0.0.6", time.Minute)).want(t, 200, map[string]int{resultFuture: 1})
	set = 0
	f.post(t, about("10.0.0.6", time.Minute)).want(t, 200, map[string]int{resultDone: 1})

	f = fixture(50 * time.Millisecond)
	f.post(t, about("10.0.0.5", 15*time.Minute)).want(t, 200, map[string]int{resultDone: 1})
	set = -10 * time.Minute
	nstest.Eventually(t, "end of the cooldown after the clock was set back", func() bool {
		return f.post(t, about("10.0.0.5", 15*time.Minute)).response.Alerts[resultDone] == 1
	})
}

// Cooldown and breaker include overlapping addresses, prefixes and ports.
func TestCooldownOfOverlapping(t *testing.T) {
	rules := DefaultRules()
	rules.Policies[0].Allow = Allow{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	rules.Policies[0].Limits.Breaker = Breaker{Actions: 2, Window: time.Hour}
	f := newFixture(t, rules, nil)
	one := func(destination, port, result string) {
		t.Helper()
		a := staleAlert(destination, port)
		a.StartsAt = f.clock().Format(time.RFC3339)
		f.post(t, notify(a)).want(t, 200, map[string]int{result: 1})
	}
	one("10.0.0.5", "80", resultDone)
	one("10.0.0.5", "", resultCooldown)
	one("10.0.0.4/31", "80", resultCooldown)
	one("10.0.0.0/24", "", resultCooldown)
	one("10.0.0.5", "81", resultDone)
	f.advance(time.Minute)
	one("10.0.0.4/31", "80", resultDone)
	f.advance(time.Minute)
	one("10.0.0.5", "80", resultBreakerOpen) // one action on the address, one on its prefix
	one("10.0.0.0/24", "80", resultBreakerOpen)
	one("10.0.0.6", "80", resultDone)
}

// All attempts of an action share its budget: connections of a pool that reconnects to the
// same address are not closed again and again.
func TestBudgetOverAttempts(t *testing.T) {
	rules := DefaultRules()
	rules.Policies[0].Limits.Flows = 100
	f := newFixture(t, rules, nil)
	hung := 0
	f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		if want := 100 - hung; a.MaxFlows != want {
			t.Errorf("after %d flows the budget is %d, want %d", hung, a.MaxFlows, want)
		}
		hung += 40
		return unfinished(40, 30), nil
	}
	for range 3 {
		f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 503, map[string]int{resultUnfinished: 1})
		f.advance(10 * time.Second)
	}
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultOverBudget: 1})
	if hung != 120 {
		t.Errorf("%d flows closed, want 120", hung) // the fake closes 40 of the remaining 20
	}
	f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultCooldown: 1})
}
