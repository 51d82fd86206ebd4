package services

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tcphup/sockdiag"
)

func flow(to string, state sockdiag.State, idle time.Duration) sockdiag.Flow {
	return sockdiag.Flow{
		Remote: netip.MustParseAddrPort(to), State: state, HasInfo: true,
		TCPInfo: sockdiag.TCPInfo{LastDataSent: idle, LastDataReceived: idle},
	}
}

// newWatcher returns a Watcher of db.internal with these addresses.
func newWatcher(t testing.TB, current, former string) *Watcher {
	t.Helper()
	w, err := New(oneService(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := &w.watches["db.internal"].history
	updateAll(h, time.Now(), addrs(t, current+" "+former), false, false)
	for _, a := range addrs(t, former) {
		*h.addresses[a] = address{former: true, lastFlow: time.Now()}
	}
	w.flows.Store(nil)
	return w
}

func TestSockets(t *testing.T) {
	w := newWatcher(t, "10.0.0.2 fd00::2", "10.0.0.1 fd00::1")
	if err := w.Reload(append(oneService(time.Minute).Services, Service{Name: "never.found", Port: 1}, Service{Name: "allowed.only"})); err != nil {
		t.Fatal(err)
	}
	got := gather(t, w,
		flow("10.0.0.1:5432", sockdiag.Established, 5*time.Second),
		flow("[fd00::1]:5432", sockdiag.CloseWait, 7*time.Second),
		flow("10.0.0.1:5432", sockdiag.FinWait2, 9*time.Second), // closed locally
		flow("10.0.0.1:5433", sockdiag.Established, time.Hour),  // another port
		flow("10.0.0.2:5432", sockdiag.Established, time.Hour),
		flow("10.0.0.3:5432", sockdiag.Established, time.Hour))
	want := map[string]float64{
		`tcphup_service_sockets{address="current",service="db.internal"}`:   1,
		`tcphup_service_sockets{address="former",service="db.internal"}`:    2,
		`tcphup_service_addresses{address="current",service="db.internal"}`: 2,
		`tcphup_service_addresses{address="former",service="db.internal"}`:  2,
		`tcphup_service_former_idle_max_seconds{service="db.internal"}`:     7,
		`tcphup_service_lookups_total{service="db.internal"}`:               0,
		`tcphup_service_lookup_failures_total{service="db.internal"}`:       0,
		`tcphup_service_lookups_total{service="never.found"}`:               0,
		`tcphup_service_lookup_failures_total{service="never.found"}`:       0,
		`tcphup_service_lookups_total{service="allowed.only"}`:              0,
		`tcphup_service_lookup_failures_total{service="allowed.only"}`:      0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, c := range []scanCollector{{w, nil}} {
		if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
	}
	if problems, err := testutil.CollectAndLint(w); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestPinned(t *testing.T) {
	w := newWatcher(t, "10.0.0.2", "10.0.0.1 fd00::1")
	for _, tt := range []struct {
		prefix string
		port   uint16
		want   bool
	}{
		{"10.0.0.1/32", 5432, true},
		{"10.0.0.2/32", 5432, true},
		{"fd00::1/128", 5432, true},
		{"10.0.0.1/32", 5433, false},
		{"10.0.0.3/32", 5432, false},
		{"10.0.0.0/24", 5432, true},
		{"10.0.0.0/24", 80, false},
		{"10.0.1.0/24", 5432, false},
		{"10.0.0.0/8", 5432, true},
		{"fd00::/64", 5432, true},
		{"fd00::/24", 5432, true}, // as long as an IPv4 prefix
		{"fd01::/24", 5432, false},
	} {
		if got := w.Pinned(netip.MustParsePrefix(tt.prefix), tt.port); got != tt.want {
			t.Errorf("%s port %d: %t", tt.prefix, tt.port, got)
		}
	}
}

// A former address expires when no scan observed a flow to it for keep.
func TestExpiresAfterLastFlow(t *testing.T) {
	w := newWatcher(t, "10.0.0.2", "10.0.0.1")
	gather(t, w, flow("10.0.0.1:5432", sockdiag.Established, 0))
	wantAddresses(t, w, "db.internal", "10.0.0.2", "10.0.0.1")
	w.keep = 0
	gather(t, w, flow("10.0.0.1:5432", sockdiag.Established, 0))
	gather(t, w)
	wantAddresses(t, w, "db.internal", "10.0.0.2", "")
	if got := gather(t, w)[`tcphup_service_addresses{address="former",service="db.internal"}`]; got != 0 {
		t.Errorf("former addresses: %v", got)
	}
}
