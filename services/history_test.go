package services

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/test/kit/nstest"
)

// addrs parses space-separated addresses.
func addrs(t testing.TB, text string) []netip.Addr {
	t.Helper()
	var out []netip.Addr
	for _, word := range strings.Fields(text) {
		a, err := netip.ParseAddr(word)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return distinct(out)
}

// texts is the inverse of addrs.
func texts(addrs []netip.Addr) string {
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

// sinceEpoch is the clock of tests: the time since boot at a wall time.
func sinceEpoch(now time.Time) time.Duration { return now.Sub(time.Unix(0, 0)) }

// updateAll updates the families of a history except failed ones; an empty response is a
// failure of both.
func updateAll(h *history, now time.Time, all []netip.Addr, no4, no6 bool) (events []event) {
	if len(all) == 0 {
		return nil
	}
	for _, f := range families {
		if failed := [...]bool{no4, no6}; !failed[f] {
			addrs, _ := ofFamily(f, all, nil)
			events = append(events, h.update(now, sinceEpoch(now), f, addrs)...)
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return strings.Compare(a.kind, b.kind) })
	return events
}

func TestHistory(t *testing.T) {
	// A step is a number of equal responses at intervals of two seconds; settle is a minute.
	type step struct {
		times           int
		answer          string
		no4, no6        bool
		pause           time.Duration // before the step
		current, former string        // after the step
		events          string        // of the step
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"stays", []step{
			{times: 100, answer: "10.0.0.1 10.0.0.2", current: "10.0.0.1 10.0.0.2", events: "added added"},
		}},
		{"failover", []step{
			{times: 1, answer: "10.0.0.1", current: "10.0.0.1", events: "added"},
			{times: 30, answer: "10.0.0.2", current: "10.0.0.1 10.0.0.2", events: "added"},
			{times: 1, answer: "10.0.0.2", current: "10.0.0.2", former: "10.0.0.1", events: "removed"},
			{times: 100, answer: "10.0.0.2", current: "10.0.0.2", former: "10.0.0.1"},
		}},
		{"one of three goes", []step{
			{times: 5, answer: "10.0.0.1 10.0.0.2 10.0.0.3", current: "10.0.0.1 10.0.0.2 10.0.0.3", events: "added added added"},
			{times: 31, answer: "10.0.0.1 10.0.0.3", current: "10.0.0.1 10.0.0.3", former: "10.0.0.2", events: "removed"},
		}},
		{"back before settle", []step{
			{times: 1, answer: "10.0.0.1", current: "10.0.0.1", events: "added"},
			{times: 29, answer: "10.0.0.2", current: "10.0.0.1 10.0.0.2", events: "added"},
			{times: 1, answer: "10.0.0.1", current: "10.0.0.1 10.0.0.2"},
			{times: 29, answer: "10.0.0.2", current: "10.0.0.1 10.0.0.2"},
		}},
		{"back after settle is current at once", []step{
			{times: 1, answer: "10.0.0.1", current: "10.0.0.1", events: "added"},
			{times: 31, answer: "10.0.0.2", current: "10.0.0.2", former: "10.0.0.1", events: "added removed"},
			{times: 1, answer: "10.0.0.1", current: "10.0.0.1 10.0.0.2", events: "returned"},
			{times: 30, answer: "10.0.0.1", current: "10.0.0.1", former: "10.0.0.2", events: "removed"},
		}},
		{"no lookups for an hour", []step{
			{times: 1, answer: "10.0.0.1", current: "10.0.0.1", events: "added"},
			{times: 1, answer: "10.0.0.2", current: "10.0.0.1 10.0.0.2", events: "added"},
			{times: 18, answer: "10.0.0.2", pause: time.Hour, current: "10.0.0.1 10.0.0.2"},
			{times: 1, answer: "10.0.0.2", current: "10.0.0.2", former: "10.0.0.1", events: "removed"},
		}},
		{"empty answers change nothing", []step{
			{times: 1, answer: "10.0.0.1", current: "10.0.0.1", events: "added"},
			{times: 500, answer: "", current: "10.0.0.1"},
			{times: 30, answer: "10.0.0.2", current: "10.0.0.1 10.0.0.2", events: "added"},
			{times: 500, answer: "", current: "10.0.0.1 10.0.0.2"},
		}},
		{"one family fails", []step{
			{times: 1, answer: "10.0.0.1 fd00::1", current: "10.0.0.1 fd00::1", events: "added added"},
			{times: 500, answer: "fd00::2", no4: true, current: "10.0.0.1 fd00::2", former: "fd00::1", events: "added removed"},
			{times: 500, answer: "10.0.0.2", no6: true, current: "10.0.0.2 fd00::2", former: "10.0.0.1 fd00::1", events: "added removed"},
		}},
		{"both families move", []step{
			{times: 1, answer: "10.0.0.1 fd00::1", current: "10.0.0.1 fd00::1", events: "added added"},
			{times: 31, answer: "10.0.0.2 fd00::2", current: "10.0.0.2 fd00::2", former: "10.0.0.1 fd00::1", events: "added added removed removed"},
		}},
		{"one family removed", []step{
			{times: 1, answer: "10.0.0.1 fd00::1", current: "10.0.0.1 fd00::1", events: "added added"},
			{times: 31, answer: "10.0.0.1", current: "10.0.0.1", former: "fd00::1", events: "removed"},
		}},
		{"two of eight in turn", []step{
			{times: 1, answer: "10.0.0.1 10.0.0.2", current: "10.0.0.1 10.0.0.2", events: "added added"},
			{times: 1, answer: "10.0.0.3 10.0.0.4", current: "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4", events: "added added"},
			{times: 32, answer: "10.0.0.5 10.0.0.6", current: "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6", events: "added added"},
			{times: 1, answer: "10.0.0.1 10.0.0.3", current: "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
			h := history{settle: time.Minute}
			for i, s := range tt.steps {
				var events []string
				now = now.Add(s.pause)
				for range s.times {
					for _, e := range updateAll(&h, now, addrs(t, s.answer), s.no4, s.no6) {
						events = append(events, e.kind)
					}
					now = now.Add(2 * time.Second)
				}
				current, former := h.list()
				got := []string{texts(current), texts(former), strings.Join(events, " ")}
				if diff := cmp.Diff([]string{s.current, s.former, s.events}, got); diff != "" {
					t.Fatalf("step %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

func TestRequiredMisses(t *testing.T) {
	for _, tt := range []struct{ per, all, want int }{
		{1, 1, 1}, {1, 2, 20}, {2, 3, 13}, {2, 8, 49}, {1, 8, 104},
	} {
		if got := requiredMisses(tt.per, tt.all); got != tt.want {
			t.Errorf("%d of %d: %d responses, want %d", tt.per, tt.all, got, tt.want)
		}
	}
}

// A former address expires when it had no flow for keep.
func TestKeep(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	old := addrs(t, "10.0.0.1")[0]
	h := history{settle: time.Minute, addresses: map[netip.Addr]*address{old: {former: true, lastFlow: now}, addrs(t, "10.0.0.2")[0]: {}}}
	for i := range 100 {
		now = now.Add(23 * time.Hour)
		h.addresses[old].count(now, uint32(i%2), uint32(1-i%2), 0)
		if h.expire(now, 24*time.Hour) {
			t.Fatal("expired although it had flows")
		}
	}
	if h.expire(now.Add(24*time.Hour), 24*time.Hour) {
		t.Error("expired too early")
	}
	if now = now.Add(24*time.Hour + 1); !h.expire(now, 24*time.Hour) {
		t.Error("not expired")
	}
	if current, former := h.list(); texts(current) != "10.0.0.2" || former != nil {
		t.Errorf("current %v, former %v", current, former)
	}
}

// The addresses of a name are limited: the last response stays, then the addresses with
// the latest flows.
func TestBounded(t *testing.T) {
	h := history{settle: time.Minute}
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	busy := addrs(t, "10.255.0.1")[0]
	updateAll(&h, now, []netip.Addr{busy}, false, false)
	h.addresses[busy].former = true
	for i := range 1500 {
		now = now.Add(time.Second)
		last := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		h.addresses[busy].count(now, 0, 0, 1)
		updateAll(&h, now, []netip.Addr{last}, false, false)
		if h.addresses[last] == nil || len(h.addresses) > maxAddresses {
			t.Fatalf("after %d responses: %d addresses", i, len(h.addresses))
		}
	}
	if h.addresses[busy] == nil {
		t.Error("the address with flows was deleted")
	}
}

// Random subsets of the addresses never become former, with and without addresses of the
// other family.
func TestRandomSubsets(t *testing.T) {
	for _, others := range []string{"", "2001:db8::1 2001:db8::2 2001:db8::3 2001:db8::4 2001:db8::5 2001:db8::6 2001:db8::7 2001:db8::8"} {
		t.Run(others, func(t *testing.T) { randomSubsets(t, addrs(t, others)) })
	}
}

func randomSubsets(t *testing.T, others []netip.Addr) {
	t.Helper()
	all := addrs(t, "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.7 10.0.0.8")
	r := rand.New(rand.NewPCG(1, 2))
	h := history{settle: time.Minute}
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	wrong := 0
	for range 10 * 60 * 30 { // ten hours, a response every two seconds
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, e := range updateAll(&h, now, slices.Concat(all[:2], others), false, false) {
			if e.kind == removed {
				wrong++
			}
		}
		now = now.Add(2 * time.Second)
	}
	t.Logf("%d addresses in rotation became former in 10 hours", wrong)
	if wrong > 1 {
		t.Errorf("%d addresses in rotation became former", wrong)
	}
}

// A changed wall clock neither shortens nor extends settle.
func TestHistoryClockSet(t *testing.T) {
	h := history{settle: 20 * time.Millisecond}
	var set time.Duration
	clock := func() time.Time { return nstest.ClockSet(t, time.Now(), set) }
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	updateAll(&h, clock(), []netip.Addr{one}, false, false)
	begun := time.Now()
	updateAll(&h, clock(), []netip.Addr{two}, false, false)
	set = time.Hour
	for time.Since(begun) < h.settle {
		now := clock()
		events := updateAll(&h, now, []netip.Addr{two}, false, false)
		if len(events) > 0 && now.Sub(begun) < h.settle {
			t.Fatalf("after %v: %v", now.Sub(begun), events)
		}
	}
	set = -time.Hour
	for range 10 { // the loop above may have had one response only
		updateAll(&h, clock(), []netip.Addr{two}, false, false)
	}
	if _, former := h.list(); len(former) != 1 || former[0] != one {
		t.Errorf("former: %v", former)
	}
}
