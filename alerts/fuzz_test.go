package alerts

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tcphup/hangup"
)

// last returns the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// withinOne reports whether both ends of p are inside one of the allowed prefixes,
// independently of the tested code.
func withinOne(p netip.Prefix, allowed []netip.Prefix) bool {
	return slices.ContainsFunc(allowed, func(a netip.Prefix) bool {
		first, end := a.Masked().Addr(), last(a)
		return first.Is4() == p.Addr().Is4() && first.Compare(p.Addr()) <= 0 && last(p).Compare(end) <= 0
	})
}

var fuzzNames = fakeNames{"db.internal": {{"10.99.0.1", "::ffff:10.99.0.2"}, {"10.99.0.7", "2001:db8:99::7"}}}

// checkAction is the oracle: no action exceeds its policy, for any alert.
func checkAction(t *testing.T, rules Rules, a hangup.Request) {
	t.Helper()
	i := slices.IndexFunc(rules.Policies, func(p Policy) bool { return p.Name == a.Policy })
	if i < 0 {
		t.Fatalf("policy %q does not exist", a.Policy)
	}
	p := &rules.Policies[i]
	allowed := slices.Clone(p.Allow.Prefixes)
	for _, name := range p.Allow.Names {
		for _, texts := range fuzzNames[name] {
			for _, text := range texts {
				addr := netip.MustParseAddr(text).Unmap()
				allowed = append(allowed, netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
	}
	if len(a.Selector.Destinations) == 0 {
		t.Error("no destination")
	}
	for _, d := range a.Selector.Destinations {
		switch {
		case !d.IsValid() || d != d.Masked() || d.Addr().Is4In6() || d.Addr().Zone() != "":
			t.Errorf("destination %s is not canonical", d)
		case d.Addr().IsUnspecified() && d.IsSingleIP() || d.Bits() == 0:
			t.Errorf("destination %s", d)
		case p.Allow.AnyAddress && d.Bits() == d.Addr().BitLen():
		case !withinOne(d, allowed):
			t.Errorf("destination %s is wider than %v", d, allowed)
		}
	}
	for _, port := range a.Selector.Ports {
		if port.First == 0 || port.First != port.Last || len(p.Ports) > 0 && !slices.Contains(p.Ports, port.First) {
			t.Errorf("port %s is not among %v", port, p.Ports)
		}
	}
	if len(a.Selector.Ports) == 0 && len(p.Ports) > 0 {
		t.Errorf("every port, want only %v", p.Ports)
	}
	if a.Policy == "evidence" {
		if a.Selector.MinIdle == 0 || !a.Selector.Stalled || a.EstablishedBefore.IsZero() || a.EstablishedBefore.After(testNow) {
			t.Errorf("evidence missing: %+v", a)
		}
	}
}

func fuzzRules(t testing.TB) Rules {
	rules := testRules(t)
	evidence := Policy{
		Name:     "evidence",
		Match:    mustMatch(t, `tcphup="evidence"`),
		Allow:    Allow{Prefixes: prefixes("0.0.0.0/0", "::/0")},
		Evidence: Evidence{Idle: 1, Stalled: true, EstablishedBeforeAlert: true},
	}
	rules.Policies = append([]Policy{Labelled(), evidence}, rules.Policies...)
	return rules
}

func fuzzReceiver(t testing.TB, rules Rules, check func(hangup.Request)) *Receiver {
	f := &fixture{now: testNow}
	hang := &fakeHangUpper{hangUp: func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		check(a)
		return new(hangup.Report), nil
	}}
	config := Config{CheckListener: authenticates, MaxActions: 1, Now: f.clock, Names: fuzzNames}
	r, err := NewReceiver(config, rules, hang, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// FuzzNotification posts any body. The response has a documented status code, and no
// action exceeds its policy.
func FuzzNotification(f *testing.F) {
	files, err := filepath.Glob("testdata/*-*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("no recorded notifications: %v", err)
	}
	for _, name := range files {
		body, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	for _, destination := range hostileDestinations {
		f.Add(notify(staleAlert(destination, "5432")))
	}
	rules := fuzzRules(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		r := fuzzReceiver(t, rules, func(a hangup.Request) { checkAction(t, rules, a) })
		w := httptest.NewRecorder()
		r.ServeHTTP(w, newRequest(body))
		if !slices.Contains([]int{http.StatusOK, http.StatusBadRequest, http.StatusRequestEntityTooLarge}, w.Code) {
			t.Errorf("code %d", w.Code)
		}
	})
}

// FuzzDestination evaluates any destination and port against every policy.
func FuzzDestination(f *testing.F) {
	for _, destination := range hostileDestinations {
		f.Add(destination, "5432", "db.internal")
		f.Add(destination, "", "")
	}
	rules := fuzzRules(f)
	r := fuzzReceiver(f, rules, func(hangup.Request) {})
	f.Fuzz(func(t *testing.T, destination, port, service string) {
		for i := range rules.Policies {
			p := &rules.Policies[i]
			labels := map[string]string{
				"destination": destination, "port": port, "peer": destination, "peer_port": port, "service": service,
			}
			got, no := p.target(labels, rules.Services, fuzzNames)
			if (got == nil) == (no == nil) {
				t.Fatalf("target %v and refusal %v", got, no)
			}
			if no != nil || len(got.prefixes) == 0 {
				continue
			}
			a := alert{labels: labels, startsAt: testNow}
			checkAction(t, rules, r.newRequest(&job{alert: &a, policy: p, target: got}, &rules, testNow, action{began: testNow}))
			// The canonical text parses to the same prefix.
			if p.Labels.Service == "" {
				again, err := parseDestination(got.destination)
				if err != nil || again != got.prefixes[0] {
					t.Errorf("%q became %q, which is %v, %v", destination, got.destination, again, err)
				}
			}
		}
	})
}

var hostileDestinations = []string{
	"10.20.3.4", "10.20.0.0/16", "10.20.0.0/15", "0.0.0.0/0", "::/0", "::", "0.0.0.0", "::ffff:10.0.0.1",
	"::ffff:0:0/96", "::ffff:10.20.0.0/112", "::ffff:10.20.0.0/111", "::ffff:0:0/95", "fe80::1%eth0", "[::1]",
	"2001:db8:20::/48", "2001:db8:20::/47", "2001:DB8:20:0:0:0:10.0.0.1", "10.99.0.7", "other", "db.internal",
	"192.0.2.1/24", "192.0.2.0/33", "192.0.2.0/-1", "192.0.2.0/024", "1.2.3.4.5", "$(id)", "a\nb", "\x00", "127.1",
}
