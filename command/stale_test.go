package command

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcphup/services"
)

// The note about an address that is missing but not former has the time of the change and the
// end of settle.
func TestNotYetFormer(t *testing.T) {
	a := netip.MustParseAddr("10.20.0.5")
	changed := time.Date(2026, 3, 14, 3, 11, 40, 0, time.Local)
	for _, tt := range []struct {
		name    string
		missing map[netip.Addr]time.Time
		settle  time.Duration
		want    string
	}{
		{"not recorded", nil, time.Minute, "db.internal no longer resolves to it, but tcphup serve has not recorded that"},
		{
			"settling", map[netip.Addr]time.Time{a: changed}, time.Minute,
			"db.internal changed 12s ago, and the address stays current until 03:12:40, for another 48s (settle: 1m)",
		},
		{
			"settled", map[netip.Addr]time.Time{a: changed}, 10 * time.Second,
			"db.internal changed 12s ago, but tcphup serve does not list it as former: it has stopped, its lookups fail, or the addresses rotate",
		},
	} {
		got := notYetFormer(a, "db.internal", &services.Known{Settle: tt.settle, Missing: tt.missing}, changed.Add(12*time.Second))
		if want := tt.want + "; to include it now, add --former=10.20.0.5"; got != want {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

// An error is no reason against the hang-up of the former addresses.
func TestLeftUndecidedError(t *testing.T) {
	var s selection
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := s.leftUndecided(ctx); got != "" {
		t.Errorf("without such addresses: %q", got)
	}
	s.stale.undecided = []netip.Prefix{netip.MustParsePrefix("10.20.0.5/32")}
	if got := s.leftUndecided(ctx); !strings.HasPrefix(got, "; cannot count the connections left alone: ") {
		t.Errorf("got %q", got)
	}
}
