package services

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/test/kit/nstest"
)

func TestFailover(t *testing.T) {
	for _, tt := range []struct {
		name        string
		settle, ttl time.Duration
		atMost      time.Duration // from the change of the DNS
	}{
		{name: "a minute, short-lived answers", settle: time.Minute, ttl: time.Second, atMost: 75 * time.Second},
		{name: "a minute, answers of a minute", settle: time.Minute, ttl: time.Minute, atMost: 140 * time.Second},
		{name: "a minute, answers of a day", settle: time.Minute, ttl: 24 * time.Hour, atMost: 6*time.Minute + 70*time.Second},
		{name: "a minute, answers without a lifetime", settle: time.Minute, ttl: -1, atMost: 105 * time.Second},
		{name: "ten minutes", settle: 10 * time.Minute, ttl: time.Minute, atMost: 13 * time.Minute},
		{name: "a second", settle: time.Second, ttl: 0, atMost: 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dns := &names{answer: says(t, "10.0.0.1 fd00::1", tt.ttl)}
				w := start(t, one(tt.settle), dns.lookup)
				time.Sleep(time.Hour)
				is(t, w, "DB.internal", "10.0.0.1 fd00::1", "")
				dns.set(says(t, "10.0.0.2 fd00::2", tt.ttl))
				changed := time.Now()
				for {
					_, former := w.Addresses("db.internal")
					if len(former) > 0 {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				took := time.Since(changed)
				t.Logf("former %s after the change", took.Round(10*time.Millisecond))
				if took < tt.settle || took > tt.atMost {
					t.Errorf("former after %s, want from %s to %s", took, tt.settle, tt.atMost)
				}
				is(t, w, "db.internal", "10.0.0.2 fd00::2", "10.0.0.1 fd00::1")
			})
		})
	}
}

// Two of eight addresses in every answer, in turn and at random: for ten minutes
// none becomes former.
func TestRoundRobin(t *testing.T) {
	for _, tt := range []struct {
		name string
		pick func(n int) (int, int)
	}{
		{"in turn", func(n int) (int, int) { return 2*n%8 + 1, (2*n+1)%8 + 1 }},
		{"at random", func(int) (int, int) {
			p := rand.Perm(8)
			return p[0] + 1, p[1] + 1
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, ttl := range []time.Duration{-1, 0, 5 * time.Second, 30 * time.Second} {
				synctest.Test(t, func(t *testing.T) {
					n := 0
					dns := &names{answer: func(string) (answer, error) {
						n++
						a, b := tt.pick(n)
						return answer{addrs: addrs(t, fmt.Sprintf("10.0.0.%d 10.0.0.%d", a, b)), ttl: ttl}, nil
					}}
					w := start(t, one(time.Minute), dns.lookup)
					for range 600 {
						time.Sleep(time.Second)
						if _, former := w.Addresses("db.internal"); len(former) > 0 {
							t.Fatalf("former after %d answers: %v", n, former)
						}
					}
					if current, _ := w.Addresses("db.internal"); len(current) != 8 {
						t.Errorf("current: %v", current)
					}
					t.Logf("lifetime %s: %d answers in 10 minutes", ttl, n)
				})
			}
		})
	}
}

// old, new, old again: whatever is current is not former, at any moment.
func TestFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &names{answer: says(t, "10.0.0.1", 5*time.Second)}
		w := start(t, one(time.Minute), dns.lookup)
		time.Sleep(time.Minute)
		dns.set(says(t, "10.0.0.2", 5*time.Second))
		time.Sleep(30 * time.Second)
		dns.set(says(t, "10.0.0.1", 5*time.Second))
		for range 55 {
			time.Sleep(time.Second)
			is(t, w, "db.internal", "10.0.0.1 10.0.0.2", "")
		}
		time.Sleep(20 * time.Second)
		is(t, w, "db.internal", "10.0.0.1", "10.0.0.2")
		dns.set(says(t, "10.0.0.2", 5*time.Second))
		time.Sleep(7 * time.Second)
		is(t, w, "db.internal", "10.0.0.1 10.0.0.2", "")
	})
}

// Failures of every kind for hours: nothing changes, and each is counted.
func TestFailuresChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &names{answer: says(t, "10.0.0.1", 5*time.Second)}
		w := start(t, one(time.Minute), dns.lookup)
		time.Sleep(time.Minute)
		dns.set(says(t, "10.0.0.2", 5*time.Second))
		time.Sleep(20 * time.Second) // 10.0.0.1 is missing, not yet former
		before := metric(t, w, "tcphup_service_lookup_failures_total")
		for _, failure := range []func(string) (answer, error){
			func(string) (answer, error) { return answer{}, fail("servfail", "server failure") },
			func(string) (answer, error) { return answer{}, errNoName },
			func(string) (answer, error) { return answer{}, nil },
			func(string) (answer, error) { return answer{}, context.DeadlineExceeded },
		} {
			dns.set(failure)
			time.Sleep(time.Hour)
			is(t, w, "db.internal", "10.0.0.1 10.0.0.2", "")
		}
		if after := metric(t, w, "tcphup_service_lookup_failures_total"); after-before < 4*100 {
			t.Errorf("%v failures counted", after-before)
		}
		// What the failures have bridged does not count: settle has to pass in answers.
		dns.set(says(t, "10.0.0.2", 5*time.Second))
		time.Sleep(20 * time.Second)
		is(t, w, "db.internal", "10.0.0.1 10.0.0.2", "")
		time.Sleep(90 * time.Second)
		is(t, w, "db.internal", "10.0.0.2", "10.0.0.1")
	})
}

// A thousand names: their lookups are spread, and what is kept and shown of them
// is bounded.
func TestThousandNames(t *testing.T) {
	const services = 1000
	var c Config
	for i := range services {
		c.Services = append(c.Services, Service{Name: fmt.Sprintf("service-%d.internal", i), Port: 5432})
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	synctest.Test(t, func(t *testing.T) {
		dns := &names{}
		dns.answer = func(name string) (answer, error) {
			var n int
			_, err := fmt.Sscanf(name, "service-%d.internal", &n)
			a := answer{ttl: 30 * time.Second}
			for i := range 4 {
				a.addrs = append(a.addrs, netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), byte(i + 1)}))
			}
			return a, err
		}
		w := start(t, c, dns.lookup)
		time.Sleep(10 * time.Minute)
		dns.mu.Lock()
		most, lookups := 0, len(dns.lookups)
		for i, j := 0, 0; i < len(dns.lookups); i++ {
			for ; dns.lookups[i].Sub(dns.lookups[j]) >= time.Second; j++ {
			}
			most = max(most, i-j+1)
		}
		steady := 0 // in the last minute, the most in one second
		last := dns.lookups[len(dns.lookups)-1].Add(-time.Minute)
		for i, j := 0, 0; i < len(dns.lookups); i++ {
			for ; dns.lookups[i].Sub(dns.lookups[j]) >= time.Second; j++ {
			}
			if dns.lookups[i].After(last) {
				steady = max(steady, i-j+1)
			}
		}
		dns.lookups = nil
		dns.mu.Unlock()
		t.Logf("%d lookups in 10 minutes; at most %d in a second at the start, %d in the last minute", lookups, most, steady)
		if most > int(time.Second/lookupGap)+1 || steady > 60 {
			t.Errorf("lookups are not spread: %d a second at the start, %d later", most, steady)
		}
		series := len(gather(t, w))
		t.Logf("%d series", series)
		if series > services*8 {
			t.Errorf("%d series for %d names", series, services)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		t.Logf("%d KiB of heap", (int64(after.HeapAlloc)-int64(before.HeapAlloc))/1024)
		if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 8<<20 {
			t.Errorf("%d bytes of heap", kept)
		}
	})
}

// Lookups that hang hold up nobody: not scrapes, not alerts, not reloads, and not
// more of them than there may be at once.
func TestHangingLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Config
		for i := range 1000 {
			c.Services = append(c.Services, Service{Name: fmt.Sprintf("service-%d.internal", i), Port: 5432})
		}
		var mu sync.Mutex
		hanging, most := 0, 0
		w := start(t, c, func(ctx context.Context, _ Service) (answer, error) {
			mu.Lock()
			hanging++
			most = max(most, hanging)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			hanging--
			mu.Unlock()
			return answer{}, ctx.Err()
		})
		time.Sleep(9 * time.Second)
		begin := time.Now()
		gather(t, w)
		w.Addresses("service-1.internal")
		w.Pinned(netip.MustParsePrefix("10.0.0.1/32"), 5432)
		if err := w.Reload(c.Services[:500]); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 0 { // of the bubble's clock: it waited for nothing
			t.Errorf("took %s", took)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if most != maxLookups {
			t.Errorf("%d lookups at once, want %d", most, maxLookups)
		}
	})
}

// Over a reload what is known stays known, and over a restart too.
func TestReloadAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := one(time.Minute)
		c.StateFile = filepath.Join(t.TempDir(), "state.json")
		dns := &names{answer: says(t, "10.0.0.1", 5*time.Second)}
		w, stop := run(t, c, dns.lookup)
		time.Sleep(time.Minute)
		dns.set(says(t, "10.0.0.2 10.0.0.3", 5*time.Second))
		time.Sleep(2 * time.Minute)
		is(t, w, "db.internal", "10.0.0.2 10.0.0.3", "10.0.0.1")
		more := append(slices.Clone(c.Services), Service{Name: "web.internal", Port: 80})
		if err := w.Reload(more); err != nil {
			t.Fatal(err)
		}
		is(t, w, "db.internal", "10.0.0.2 10.0.0.3", "10.0.0.1")
		time.Sleep(time.Second)
		is(t, w, "web.internal", "10.0.0.2 10.0.0.3", "")
		if err := w.Reload(slices.Concat(more, more)); err == nil {
			t.Error("a name twice was taken")
		}
		is(t, w, "web.internal", "10.0.0.2 10.0.0.3", "")
		stop()
		time.Sleep(time.Hour)
		known, err := ReadState(c.StateFile, "db.internal")
		if err != nil || known.Port != 5432 || texts(known.Current) != "10.0.0.2 10.0.0.3" || texts(known.Former) != "10.0.0.1" {
			t.Errorf("state file: %+v, %v", known, err)
		}
		// While nobody watched, an address may have been in rotation.
		dns.set(says(t, "10.0.0.2", 5*time.Second))
		w = start(t, c, dns.lookup)
		time.Sleep(50 * time.Second)
		is(t, w, "db.internal", "10.0.0.2 10.0.0.3", "10.0.0.1")
		time.Sleep(time.Minute)
		is(t, w, "db.internal", "10.0.0.2", "10.0.0.1 10.0.0.3")
		if changed := metric(t, w, "tcphup_service_last_change_timestamp_seconds"); time.Since(time.Unix(int64(changed), 0)) > 2*time.Minute {
			t.Errorf("last change %v", changed)
		}
	})
}

// What a state file says of a name counts when the name has been found again, and not
// before: it may have moved meanwhile.
func TestAddressesBeforeTheFirstAnswer(t *testing.T) {
	w := known(t, "10.0.0.2", "10.0.0.1")
	answers := make(chan answer, 1)
	w.lookup = func(ctx context.Context, _ Service) (answer, error) {
		select {
		case a := <-answers:
			return a, nil
		case <-ctx.Done():
			return answer{}, ctx.Err()
		default:
			return answer{}, errors.New("no answer")
		}
	}
	w.interval = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	defer func() { cancel(); <-done }()
	failures := func() uint64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.watches["db.internal"].failures
	}
	nstest.Eventually(t, "the name is not found", func() bool { return failures() > 0 })
	if current, former := w.Addresses("db.internal"); len(current)+len(former) > 0 {
		t.Errorf("not found since the start: current %v, former %v", current, former)
	}
	is(t, w, "db.internal", "10.0.0.2", "10.0.0.1")
	answers <- answer{addrs: addrs(t, "10.0.0.1"), ttl: time.Hour} // it has moved back
	nstest.Eventually(t, "the name is found", func() bool {
		current, former := w.Addresses("db.internal")
		return texts(current) == "10.0.0.1 10.0.0.2" && len(former) == 0
	})
}
