package alerts

import (
	"context"
	"errors"
	"fmt"
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

// breakerFixture returns a receiver whose policy may act on limit destinations. Flows match
// for the destinations that matching accepts; nil accepts all.
func breakerFixture(t *testing.T, limit int, matching func(destination string) bool) *fixture {
	t.Helper()
	rules := DefaultRules()
	rules.Policies[0].Limits.Breaker = Breaker{Destinations: limit, Window: time.Hour}
	f := newFixture(t, rules, nil)
	f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		report := plannedFlows(a)
		report.Results = slices.DeleteFunc(report.Results, func(r hangup.Result) bool {
			return matching != nil && !matching(r.Flow.Remote.Addr().String())
		})
		for i := range report.Results {
			if !a.DryRun {
				report.Results[i].Outcome = hangup.Closed
			}
		}
		return report, nil
	}
	return f
}

func (f *fixture) resume(t *testing.T) {
	t.Helper()
	if got := send(t, f.ResumeHandler(), newRequest(nil)); got.code != http.StatusOK {
		t.Fatalf("resume: code %d", got.code)
	}
}

// The breaker counts destinations with matching flows only.
func TestBreakerCountsMatching(t *testing.T) {
	among := func(last int) func(string) bool {
		return func(destination string) bool {
			var n int
			_, err := fmt.Sscanf(destination, "10.0.0.%d", &n)
			return err == nil && n <= last
		}
	}
	t.Run("no flows", func(t *testing.T) {
		f := breakerFixture(t, 20, func(string) bool { return false })
		f.post(t, manyAlerts(21)).want(t, 200, map[string]int{resultDone: 21})
		if n := f.limiter.trips.Load(); n != 0 {
			t.Errorf("%d trips", n)
		}
	})
	t.Run("as many as the limit", func(t *testing.T) {
		f := breakerFixture(t, 5, among(4))
		f.post(t, manyAlerts(100)).want(t, 200, map[string]int{resultDone: 100})
		// A further destination without flows changes nothing, one with flows opens it.
		f.post(t, notify(staleAlert("10.0.0.99", "5432"))).want(t, 200, map[string]int{resultDone: 1})
		f.hang.hangUp = nil
		f.post(t, notify(staleAlert("10.0.0.99", "5432"))).want(t, 200, map[string]int{resultBreakerOpen: 1})
	})
	t.Run("one more", func(t *testing.T) {
		f := breakerFixture(t, 5, among(5))
		f.post(t, manyAlerts(100)).want(t, 200, map[string]int{resultBreakerOpen: 100})
		if hung := f.hang.hung(); len(hung) > 0 {
			t.Errorf("actions: %v", hung)
		}
	})
	t.Run("refused destinations", func(t *testing.T) {
		f := breakerFixture(t, 1, nil)
		f.post(t, notify(staleAlert("10.0.0.5", "80"), staleAlert("other", ""), staleAlert("10.0.0.0/24", "80"))).
			want(t, 200, map[string]int{resultDone: 1, resultBadDestination: 1, resultNotAllowed: 1})
	})
	t.Run("dry run fails", func(t *testing.T) {
		f := breakerFixture(t, 5, nil)
		f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) {
			return nil, errors.New("dump interrupted")
		}
		f.post(t, manyAlerts(6)).want(t, 503, map[string]int{resultError: 6})
		if n := len(f.hang.seen()); n != 1 {
			t.Errorf("%d dumps, want 1", n)
		}
	})
}

// The dry run requires the policy's evidence, within no budget.
func TestBreakerEvidence(t *testing.T) {
	rules := DefaultRules()
	rules.Policies[0].Evidence = Evidence{Idle: time.Minute, Stalled: true, EstablishedBeforeAlert: true}
	rules.Policies[0].Limits.Breaker.Destinations = 1
	f := newFixture(t, rules, nil)
	later := staleAlert("10.0.0.6", "")
	later.StartsAt = testNow.Add(-time.Second).Format(time.RFC3339)
	f.post(t, notify(staleAlert("10.0.0.5", "80"), later)).want(t, 200, map[string]int{resultBreakerOpen: 2})
	a := f.hang.actions[0]
	if s := a.Selector; s.MinIdle != time.Minute || !s.Stalled || len(s.Destinations) != 2 || len(s.Ports) != 0 {
		t.Errorf("selector %+v", s)
	}
	if !a.DryRun || a.MaxFlows != 0 || a.MaxFraction != 0 || !a.EstablishedBefore.Equal(testNow.Add(-time.Second)) {
		t.Errorf("request %+v", a)
	}
}

// A running action on another destination decides whether the limit is reached.
func TestBreakerWaitsForRunning(t *testing.T) {
	for _, tt := range []struct {
		name   string
		closed int
		result string
	}{
		{"closes nothing", 0, resultDone},
		{"closes flows", 1, resultBreakerOpen},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := breakerFixture(t, 1, nil)
				both, finish := f.hang.hangUp, make(chan struct{})
				f.hang.hangUp = func(ctx context.Context, a hangup.Request) (*hangup.Report, error) {
					if a.Selector.Destinations[0].Addr().String() == "10.0.0.5" {
						<-finish
						return outcome(hangup.Closed, tt.closed), nil
					}
					return both(ctx, a)
				}
				var done sync.WaitGroup
				done.Go(func() {
					f.post(t, notify(staleAlert("10.0.0.5", "80"))).want(t, 200, map[string]int{resultDone: 1})
				})
				synctest.Wait()
				done.Go(func() {
					f.post(t, notify(staleAlert("10.0.0.6", "80"))).want(t, 200, map[string]int{tt.result: 1})
				})
				synctest.Wait()
				if n := len(f.hang.seen()); n != 1 {
					t.Errorf("%d actions while one is running, want 1", n)
				}
				close(finish)
				done.Wait()
			})
		})
	}
	t.Run("time over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := breakerFixture(t, 1, nil)
			f.hang.hangUp = blockUntilCancelled
			var done sync.WaitGroup
			for _, destination := range []string{"10.0.0.5", "10.0.0.6"} {
				done.Go(func() {
					f.post(t, notify(staleAlert(destination, "80"))).want(t, 503, map[string]int{resultUnfinished: 1})
				})
			}
			done.Wait()
		})
	})
}

// The number of unfinished actions in memory is bounded.
func TestUnfinishedBound(t *testing.T) {
	rules := DefaultRules()
	rules.Policies[0].Limits.Breaker = Breaker{}
	f := newFixture(t, rules, func(c *Config) { c.MaxActions = 1 })
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) {
		return nil, errors.New("dump interrupted")
	}
	f.post(t, manyAlerts(maxUnfinished+100)).want(t, 503, map[string]int{resultError: maxUnfinished, resultUnfinished: 100})
	f.advance(unfinishedFor + time.Second)
	f.post(t, manyAlerts(1)).want(t, 503, map[string]int{resultError: 1})
	if n := len(f.limiter.policies[LabelledName].destinations); n != 1 {
		t.Errorf("%d destinations in memory", n)
	}
}

// POST /-/resume closes the breakers and starts their counts anew. Cooldowns stay.
func TestResumeClosesBreakers(t *testing.T) {
	t.Run("policy", func(t *testing.T) {
		f := breakerFixture(t, 5, nil)
		f.post(t, manyAlerts(5)).want(t, 200, map[string]int{resultDone: 5})
		f.post(t, notify(staleAlert("10.0.0.99", "80"))).want(t, 200, map[string]int{resultBreakerOpen: 1})
		f.resume(t)
		if n := f.limiter.openBreakers(f.clock(), LabelledName); n != 0 {
			t.Errorf("%d breakers open", n)
		}
		f.post(t, manyAlerts(5)).want(t, 200, map[string]int{resultCooldown: 5})
		f.post(t, notify(staleAlert("10.0.0.99", "80"))).want(t, 200, map[string]int{resultDone: 1})
		f.post(t, manyAlerts(6)).want(t, 200, map[string]int{resultBreakerOpen: 6})
	})
	t.Run("destination", func(t *testing.T) {
		rules := DefaultRules()
		rules.Policies[0].Limits = Limits{Breaker: Breaker{Actions: 1, Window: time.Hour}}
		f := newFixture(t, rules, nil)
		one := notify(staleAlert("10.0.0.5", "80"))
		for _, result := range []string{resultDone, resultBreakerOpen} {
			f.post(t, one).want(t, 200, map[string]int{result: 1})
		}
		f.resume(t)
		for _, result := range []string{resultDone, resultBreakerOpen} {
			f.post(t, one).want(t, 200, map[string]int{result: 1})
		}
	})
}

// A flow does not count for the breaker if only services include it and it may belong to
// another service.
func TestBreakerShared(t *testing.T) {
	f := newFixture(t, serviceRules(t), func(c *Config) {
		c.Names = fakeNames{"db.internal": {{"10.0.0.2"}, {"10.0.0.1", "10.0.0.7"}}, "reports.internal": {{"10.0.0.1"}, nil}}
	})
	address := func(a string) *target {
		return &target{destination: a, prefixes: []netip.Prefix{netip.MustParsePrefix(a + "/32")}}
	}
	service := &target{destination: "db.internal", service: true, ports: []uint16{5432}, prefixes: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.7/32"),
	}}
	for _, tt := range []struct {
		name, remote string
		targets      []*target
		shared       bool
	}{
		{"address of another service", "10.0.0.1:5432", []*target{service}, true},
		{"another port", "10.0.0.1:80", []*target{service}, false},
		{"former address of this service alone", "10.0.0.7:5432", []*target{service}, false},
		{"named by its address as well", "10.0.0.1:5432", []*target{service, address("10.0.0.1")}, false},
		{"an address beside it", "10.0.0.1:5432", []*target{service, address("10.0.0.9")}, true},
	} {
		targets := make(map[string]*target)
		for _, to := range tt.targets {
			targets[to.key()] = to
		}
		if got := f.isShared(&sockdiag.Flow{Remote: netip.MustParseAddrPort(tt.remote)}, targets); got != tt.shared {
			t.Errorf("%s: shared is %t", tt.name, got)
		}
	}
}
