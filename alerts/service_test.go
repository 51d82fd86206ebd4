package alerts

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/hangup"
	"tcphup/test/kit/nstest"
)

// moving is a resolver whose names move.
type moving struct {
	mu    sync.Mutex
	names fakeNames
}

func (m *moving) Addresses(name string) (current, former []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names.Addresses(name)
}

func (m *moving) set(names fakeNames) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names = names
}

// serviceRules are the default rules with a policy for what services have left.
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

func leftBy(service string) testAlert {
	return testAlert{Labels: map[string]string{"service": service}}
}

// Nothing is hung up for a service as long as nobody knows where it is.
func TestServiceNotFound(t *testing.T) {
	f := newFixture(t, serviceRules(t), func(c *Config) { c.Names = fakeNames{} })
	f.post(t, notify(leftBy("db.internal"))).want(t, http.StatusServiceUnavailable, map[string]int{resultError: 1})
	if seen := f.hang.seen(); len(seen) > 0 {
		t.Errorf("hung up: %q", seen)
	}
}

// An address that one service has left and another one has is left alone, on the same
// port.
func TestServiceSharesAddress(t *testing.T) {
	f := newFixture(t, serviceRules(t), func(c *Config) {
		c.Names = fakeNames{
			"db.internal":      {{"10.0.0.2"}, {"10.0.0.1", "10.0.0.3", "10.0.0.4"}},
			"reports.internal": {{"10.0.0.1"}, nil},
			"web.internal":     {{"10.0.0.3"}, nil},
		}
	})
	var hung []netip.Prefix
	f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		hung = a.Selector.Destinations
		return outcome(hangup.Closed, 1), nil
	}
	f.post(t, notify(leftBy("db.internal"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.3/32"), netip.MustParsePrefix("10.0.0.4/32")}; !slices.Equal(hung, want) {
		t.Errorf("hung up flows to %v, want %v", hung, want)
	}
}

// The address of a service comes back while the alert waits for its turn.
func TestServiceReturnsMeanwhile(t *testing.T) {
	names := &moving{names: fakeNames{"db.internal": {{"10.0.0.2"}, {"10.0.0.1", "10.0.0.7"}}}}
	f := newFixture(t, serviceRules(t), func(c *Config) { c.Names, c.MaxActions = names, 1 })
	busy, free := make(chan struct{}), make(chan struct{})
	f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		if a.Policy == LabelledName {
			close(busy)
			<-free
			return new(hangup.Report), nil
		}
		if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")}; !slices.Equal(a.Selector.Destinations, want) {
			t.Errorf("hung up flows to %v, want %v", a.Selector.Destinations, want)
		}
		return outcome(hangup.Closed, 1), nil
	}
	var done sync.WaitGroup
	done.Go(func() { f.post(t, notify(staleAlert("10.9.9.9", "80"))) }) // takes the only place
	<-busy
	done.Go(func() {
		f.post(t, notify(leftBy("db.internal"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
	})
	nstest.Eventually(t, "it waits for its turn", func() bool {
		f.claims.mu.Lock()
		defer f.claims.mu.Unlock()
		return len(f.claims.held) == 2
	})
	names.set(fakeNames{"db.internal": {{"10.0.0.1", "10.0.0.2"}, {"10.0.0.7"}}})
	close(free)
	done.Wait()
}

// What policies name is known for it, with their ports.
func TestAllows(t *testing.T) {
	rules := testRules(t) // 10.20.0.0/16 on 5432 and 6432 among others
	f := newFixture(t, rules, func(c *Config) { c.Names = fakeNames{} })
	for _, tt := range []struct {
		prefix string
		port   uint16
		want   bool
	}{
		{"10.20.3.4/32", 5432, true},
		{"10.20.3.4/32", 80, false},
		{"10.20.3.0/24", 6432, true},
		{"10.0.0.0/8", 5432, true},    // some of it
		{"10.99.0.1/32", 5432, false}, // by its name alone
	} {
		if got := f.Allows(netip.MustParsePrefix(tt.prefix), tt.port); got != tt.want {
			t.Errorf("%s port %d: %t", tt.prefix, tt.port, got)
		}
	}
	anywhere := newFixture(t, DefaultRules(), nil)
	if anywhere.Allows(netip.MustParsePrefix("10.20.3.4/32"), 5432) {
		t.Error("a policy that may touch every address names one")
	}
}

// Who is turned away is told, and cannot fill the log.
func TestRejectedIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		f := newFixture(t, DefaultRules(), nil)
		f.log = slog.New(slog.NewTextHandler(&log, nil))
		for range 3 {
			f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/alerts", strings.NewReader("{}")))
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "client=192.0.2.1:1234") || !strings.Contains(log.String(), "code=401") {
			t.Errorf("logged: %s", log.String())
		}
		time.Sleep(time.Minute)
		f.Protect(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/-/reload", nil))
		if n := strings.Count(log.String(), "level=WARN"); n != 2 || !strings.Contains(log.String(), "path=/-/reload") {
			t.Errorf("logged: %s", log.String())
		}
	})
}
