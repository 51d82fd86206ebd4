package alerts

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/addresses"
	"tcphup/test/kit/nstest"
)

// changingNames is a resolver with changing addresses.
type changingNames struct {
	mu    sync.Mutex
	names fakeNames
}

func (m *changingNames) Addresses(name string) (current, former []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names.Addresses(name)
}

func (m *changingNames) Stale(name string, f *sockdiag.Flow) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names.Stale(name, f)
}

func (m *changingNames) Other(string, *sockdiag.Flow) bool { return false }

func (m *changingNames) set(names fakeNames) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names = names
}

// serviceRules returns the default rules with a policy for former addresses of services.
func serviceRules(t *testing.T) Rules {
	t.Helper()
	rules := DefaultRules()
	stale := rules.Policies[0]
	stale.Name, stale.Allow, stale.Labels.Service = "stale", Allow{AnyAddress: true}, "service"
	stale.Match = mustMatch(t, `service=~".+"`)
	rules.Policies = append([]Policy{stale}, rules.Policies...)
	rules.Services = []Service{{Name: "db.internal", Port: 5432}, {Name: "reports.internal", Port: 5432}, {Name: "web.internal", Port: 443}}
	return rules
}

// serviceAlert returns an alert for the former addresses of a service.
func serviceAlert(service string) testAlert {
	return testAlert{Labels: map[string]string{"service": service}}
}

// An unresolved service has no action; the response is 503.
func TestServiceNotResolved(t *testing.T) {
	f := newFixture(t, serviceRules(t), func(c *Config) { c.Names = fakeNames{} })
	f.post(t, notify(serviceAlert("db.internal"))).want(t, http.StatusServiceUnavailable, map[string]int{resultError: 1})
	if seen := f.hang.seen(); len(seen) > 0 {
		t.Errorf("actions: %q", seen)
	}
}

// An exported_ label refuses the alert unless the policy names it.
func TestExportedLabels(t *testing.T) {
	named := Labelled()
	named.Labels = LabelNames{Destination: "exported_destination", Port: "exported_port"}
	f := newFixture(t, Rules{Policies: []Policy{named}}, nil)
	a := staleAlert("10.9.9.9", "9100")
	a.Labels["exported_destination"], a.Labels["exported_port"] = "10.0.0.5", "80"
	f.post(t, notify(a)).want(t, http.StatusOK, map[string]int{resultDone: 1})
	a.Labels["exported_service"] = "db.internal"
	f.post(t, notify(a)).want(t, http.StatusOK, map[string]int{resultMalformed: 1})
	if want := []string{"labelled 10.0.0.5/32 80"}; !slices.Equal(f.hang.seen(), want) {
		t.Errorf("actions: %q, want %q", f.hang.seen(), want)
	}
	records := f.config.Audit.Records()
	if detail := records[len(records)-1].Detail; !strings.Contains(detail, "honor_labels: true") {
		t.Errorf("detail %q", detail)
	}
}

// A request for a former address that is the current address of another service identifies
// the flows that may belong to it. Other requests identify none.
func TestServiceSharesAddress(t *testing.T) {
	f := newFixture(t, serviceRules(t), func(c *Config) {
		c.Names = fakeNames{
			"db.internal":      {{"10.0.0.2"}, {"10.0.0.1", "10.0.0.4"}},
			"reports.internal": {{"10.0.0.1"}, nil},
		}
	})
	var seen hangup.Request
	f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		seen = a
		return outcome(hangup.Closed, 1), nil
	}
	f.post(t, notify(serviceAlert("db.internal"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.4/32")}
	if !slices.Equal(seen.Selector.Destinations, want) {
		t.Errorf("destinations %v, want %v", seen.Selector.Destinations, want)
	}
	for to, want := range map[string]bool{
		"10.0.0.1:5432": true, "10.0.0.4:5432": false,
		"10.0.0.1:5433": false, "10.0.0.9:5432": false, // subflows of MPTCP connections to the service
	} {
		if got := seen.Shared(&sockdiag.Flow{Remote: netip.MustParseAddrPort(to)}); got != want {
			t.Errorf("%s: shared is %t, want %t", to, got, want)
		}
	}
	for to, want := range map[string]bool{"10.0.0.1:5432": true, "10.0.0.9:5432": false} {
		flow := &sockdiag.Flow{Local: netip.MustParseAddrPort("10.0.0.100:1"), Remote: netip.MustParseAddrPort(to)}
		if got := seen.Other(flow); got != want {
			t.Errorf("%s: other is %t, want %t", to, got, want)
		}
	}
	f.post(t, notify(staleAlert("10.9.9.9", "80"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
	if seen.Shared != nil || seen.Other != nil {
		t.Error("alert without a service: Shared or Other is set")
	}
}

// While the alert waits for another action, a former address becomes current again, or the
// destination is refused.
func TestServiceReturnsMeanwhile(t *testing.T) {
	for _, tt := range []struct {
		name      string
		meanwhile fakeNames
		want      []netip.Prefix // hung up
		code      int
		result    string
	}{
		{"address returns", fakeNames{"db.internal": {{"10.0.0.1", "10.0.0.2"}, {"10.0.0.7"}}}, []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")}, http.StatusOK, resultDone},
		{"service is unresolved", fakeNames{}, nil, http.StatusServiceUnavailable, resultError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			names := &changingNames{names: fakeNames{"db.internal": {{"10.0.0.2"}, {"10.0.0.1", "10.0.0.7"}}}}
			f := newFixture(t, serviceRules(t), func(c *Config) { c.Names, c.MaxActions = names, 1 })
			busy, free := make(chan struct{}), make(chan struct{})
			var hungUp []netip.Prefix
			f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
				if a.Policy == LabelledName {
					close(busy)
					<-free
					return new(hangup.Report), nil
				}
				hungUp = append(hungUp, a.Selector.Destinations...)
				return outcome(hangup.Closed, 1), nil
			}
			var done sync.WaitGroup
			done.Go(func() { f.post(t, notify(staleAlert("10.9.9.9", "80"))) }) // occupies the only slot
			<-busy
			done.Go(func() {
				f.post(t, notify(serviceAlert("db.internal"))).want(t, tt.code, map[string]int{tt.result: 1})
			})
			nstest.Eventually(t, "the second action waits", func() bool {
				f.locks.mu.Lock()
				defer f.locks.mu.Unlock()
				return len(f.locks.held) == 2
			})
			names.set(tt.meanwhile)
			close(free)
			done.Wait()
			if !slices.Equal(hungUp, tt.want) {
				t.Errorf("destinations %v, want %v", hungUp, tt.want)
			}
		})
	}
}

// A former address becomes current again during the action.
func TestServiceReturnsDuringAction(t *testing.T) {
	names := &changingNames{names: fakeNames{"reports.internal": {{"10.0.0.2"}, {"10.0.0.1"}}}}
	f := newFixture(t, serviceRules(t), func(c *Config) { c.Names = names })
	f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		flow := &sockdiag.Flow{Remote: netip.MustParseAddrPort("10.0.0.1:5432")}
		before := a.Shared(flow)
		names.set(fakeNames{"reports.internal": {{"10.0.0.1"}, {"10.0.0.2"}}})
		if after := a.Shared(flow); before || !after {
			t.Errorf("shared before is %t, after %t", before, after)
		}
		return outcome(hangup.Closed, 1), nil
	}
	f.post(t, notify(serviceAlert("reports.internal"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
}

// Labels accept the same addresses as every other input, except /0.
func TestDestinationSharedInputs(t *testing.T) {
	for _, tt := range addresses.Inputs() {
		if strings.HasSuffix(tt.Want, "/0") {
			tt.Fails = "covers every address"
		}
		got, err := parseDestination(tt.Text)
		switch {
		case tt.Fails != "":
			if err == nil || !strings.Contains(err.Error(), tt.Fails) {
				t.Errorf("%s: got %v, %v; want an error with %q", tt.Text, got, err, tt.Fails)
			}
		case err != nil || got.String() != tt.Want:
			t.Errorf("%s: got %v, %v; want %s", tt.Text, got, err, tt.Want)
		}
	}
}
