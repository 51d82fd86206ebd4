package alerts

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"tcphup/hangup"
)

// Cooldown, breaker of the destination and unfinished actions are those of one namespace and
// pod. An alert for every pod of the namespace overlaps those for one.
func TestPodLimits(t *testing.T) {
	rules := nodeRules(t)
	rules.Policies[0].Namespaces = []string{"shop", "bank"}
	rules.Policies[0].Limits.Breaker = Breaker{Actions: 1, Window: time.Hour}
	f := nodeFixture(t, rules, nil)
	post := func(namespace, pod, result string) {
		t.Helper()
		f.post(t, notify(podAlert("shop", namespace, "10.0.0.5", "pod", pod))).want(t, http.StatusOK, map[string]int{result: 1})
	}
	post("shop", "web-0", resultDone)
	post("shop", "web-0", resultCooldown)
	post("bank", "web-0", resultDone)
	post("shop", "web-1", resultDone)
	post("shop", "", resultCooldown)
	f.advance(31 * time.Second)
	post("shop", "web-0", resultBreakerOpen)
	post("shop", "", resultBreakerOpen)
	post("bank", "web-0", resultBreakerOpen)
	if n := f.limiter.openBreakers(f.clock(), "shop"); n != 2 {
		t.Errorf("%d open breakers", n)
	}

	// Unfinished actions of one namespace leave room for those of others.
	f = nodeFixture(t, rules, nil)
	f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) { return unfinished(0, 1), nil }
	for i := range maxUnfinished + 1 {
		f.post(t, notify(podAlert("shop", "shop", fmt.Sprintf("10.0.%d.%d", i/256, i%256))))
	}
	if r := lastRecord(f); r.Detail != fmt.Sprintf("policy has %d unfinished actions", maxUnfinished) {
		t.Errorf("got %+v", r)
	}
	f.hang.hangUp = nil
	post("bank", "web-0", resultDone)
}

// An action in one namespace does not wait for one to the same destination in another.
func TestPodLocks(t *testing.T) {
	f := nodeFixture(t, nodeRules(t), nil)
	begun, free := blockShop(f)
	var first sync.WaitGroup
	first.Go(func() {
		f.post(t, notify(podAlert("shop", "shop", "10.0.0.5", "pod", "web-0"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
	})
	<-begun
	f.post(t, notify(podAlert("bank", "bank", "10.0.0.5", "pod", "web-0"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
	close(free)
	first.Wait()
}

// The spread of a notification counts pods and destinations with matching flows, and those of
// pods that could not be read.
func TestPodSpread(t *testing.T) {
	rules := nodeRules(t)
	rules.Policies[0].Namespaces = []string{"shop", "bank"}
	rules.Policies[0].Limits.Breaker = Breaker{Destinations: 2, Window: time.Hour}
	alerts := []testAlert{
		podAlert("shop", "shop", "10.0.0.5", "pod", "web-0"), podAlert("shop", "shop", "10.0.0.5", "pod", "web-1"),
		podAlert("shop", "bank", "10.0.0.5", "pod", "web-0"), podAlert("shop", "shop", "10.0.0.5", "pod", "web-9"),
	}
	for _, tt := range []struct {
		name       string
		matching   []string // pods with flows
		unread     string   // pod
		err        error
		result     string
		acted, dry int
	}{
		{name: "two pods", matching: []string{"shop/web-0", "shop/web-1"}, result: resultDone, acted: 3, dry: 1},
		{name: "three pods", matching: []string{"shop/web-0", "shop/web-1", "bank/web-0"}, result: resultBreakerOpen, dry: 1},
		{name: "two pods, one unread", matching: []string{"shop/web-0", "shop/web-1"}, unread: "bank/web-0", err: errors.New("busy"), result: resultBreakerOpen, dry: 1},
		{name: "two pods, one ended", matching: []string{"shop/web-0", "shop/web-1"}, unread: "bank/web-0", err: os.ErrNotExist, result: resultDone, acted: 3, dry: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := nodeFixture(t, rules, func(c *Config) {
				c.Pods = func() ([]hangup.Namespace, error) { return nodePods()[:7], nil } // the named ones
			})
			dry := 0
			f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
				if !a.DryRun {
					return new(hangup.Report), nil
				}
				dry++
				report := &hangup.Report{}
				for _, in := range a.Namespaces {
					if slices.Contains(tt.matching, in.Name) {
						r := plannedFlows(a).Results[0]
						r.Namespace = in.Name
						report.Results = append(report.Results, r)
					}
				}
				if tt.err != nil {
					report.NamespaceErrors = []hangup.NamespaceError{{Name: tt.unread, Err: tt.err}}
				}
				return report, nil
			}
			f.post(t, notify(alerts...)).want(t, http.StatusOK, map[string]int{tt.result: 4})
			if n := len(f.hang.acted()); n != tt.acted+tt.dry || dry != tt.dry {
				t.Errorf("%d actions and %d dry runs: %q", n-dry, dry, f.hang.acted())
			}
		})
	}
	f := nodeFixture(t, rules, func(c *Config) {
		c.Pods = func() ([]hangup.Namespace, error) { return nil, errors.New("busy") }
	})
	f.post(t, notify(alerts...)).want(t, http.StatusServiceUnavailable, map[string]int{resultError: 4})
}
