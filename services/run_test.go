package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
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
		name             string
		settle, interval time.Duration
		atMost           time.Duration // after the DNS change
	}{
		{name: "defaults", atMost: 85 * time.Second},
		{name: "a minute, looked up every second", settle: time.Minute, interval: time.Second, atMost: 64 * time.Second},
		{name: "a minute, looked up every five minutes", settle: time.Minute, interval: 5 * time.Minute, atMost: 6*time.Minute + 64*time.Second},
		{name: "ten minutes", settle: 10 * time.Minute, atMost: 11 * time.Minute},
		{name: "a second", settle: time.Second, interval: time.Second, atMost: 2500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dns := &fakeResolver{answer: fixedAnswer(t, "10.0.0.1 fd00::1")}
				c := oneService(tt.settle)
				c.Services[0].Interval = tt.interval
				w := start(t, c, dns.lookup)
				time.Sleep(time.Hour)
				wantAddresses(t, w, "DB.internal", "10.0.0.1 fd00::1", "")
				dns.set(fixedAnswer(t, "10.0.0.2 fd00::2"))
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
				if took < cmp.Or(tt.settle, DefaultSettle) || took > tt.atMost {
					t.Errorf("former after %s, want from %s to %s", took, cmp.Or(tt.settle, DefaultSettle), tt.atMost)
				}
				wantAddresses(t, w, "db.internal", "10.0.0.2 fd00::2", "10.0.0.1 fd00::1")
			})
		})
	}
}

// Responses with two of eight addresses, in turn or at random: none becomes former in ten
// minutes.
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
			for _, interval := range []time.Duration{time.Second, 5 * time.Second, 15 * time.Second, time.Minute} {
				synctest.Test(t, func(t *testing.T) {
					n := 0
					dns := &fakeResolver{answer: func(string) ([]netip.Addr, error) {
						n++
						a, b := tt.pick(n)
						return addrs(t, fmt.Sprintf("10.0.0.%d 10.0.0.%d", a, b)), nil
					}}
					c := oneService(time.Minute)
					c.Services[0].Interval = interval
					w := start(t, c, func(ctx context.Context, s Service, f family) ([]netip.Addr, error) {
						if f == ipv6 {
							return nil, fail(notFound, "no such host")
						}
						return dns.lookup(ctx, s, f)
					})
					for range 600 {
						time.Sleep(time.Second)
						if _, former := w.Addresses("db.internal"); len(former) > 0 {
							t.Fatalf("former after %d responses: %v", n, former)
						}
					}
					if current, _ := w.Addresses("db.internal"); len(current) != 8 {
						t.Errorf("current: %v", current)
					}
					t.Logf("interval %s: %d responses in 10 minutes", interval, n)
				})
			}
		})
	}
}

// After old, new and old again, a current address is never former.
func TestFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeResolver{answer: fixedAnswer(t, "10.0.0.1")}
		w := start(t, oneService(time.Minute), dns.lookup)
		time.Sleep(time.Minute)
		dns.set(fixedAnswer(t, "10.0.0.2"))
		time.Sleep(30 * time.Second)
		dns.set(fixedAnswer(t, "10.0.0.1"))
		for range 55 {
			time.Sleep(time.Second)
			wantAddresses(t, w, "db.internal", "10.0.0.1 10.0.0.2", "")
		}
		time.Sleep(20 * time.Second)
		wantAddresses(t, w, "db.internal", "10.0.0.1", "10.0.0.2")
		dns.set(fixedAnswer(t, "10.0.0.2"))
		time.Sleep(7 * time.Second)
		wantAddresses(t, w, "db.internal", "10.0.0.1 10.0.0.2", "")
	})
}

// Failed lookups of every kind change no address, and each is counted.
func TestFailuresChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeResolver{answer: fixedAnswer(t, "10.0.0.1")}
		w := start(t, oneService(time.Minute), dns.lookup)
		time.Sleep(time.Minute)
		dns.set(fixedAnswer(t, "10.0.0.2"))
		time.Sleep(20 * time.Second) // 10.0.0.1 is missing, not yet former
		before := metric(t, w, "tcphup_service_lookup_failures_total")
		for _, failure := range []func(string) ([]netip.Addr, error){
			func(string) ([]netip.Addr, error) { return nil, fail("servfail", "server failure") },
			func(string) ([]netip.Addr, error) { return nil, fail(notFound, "no such host") },
			func(string) ([]netip.Addr, error) { return nil, nil },
			func(string) ([]netip.Addr, error) { return nil, context.DeadlineExceeded },
		} {
			dns.set(failure)
			time.Sleep(time.Hour)
			wantAddresses(t, w, "db.internal", "10.0.0.1 10.0.0.2", "")
		}
		if after := metric(t, w, "tcphup_service_lookup_failures_total"); after-before < 4*100 {
			t.Errorf("%v failures counted", after-before)
		}
		// Time with failed lookups does not count towards settle.
		dns.set(fixedAnswer(t, "10.0.0.2"))
		time.Sleep(20 * time.Second)
		wantAddresses(t, w, "db.internal", "10.0.0.1 10.0.0.2", "")
		time.Sleep(90 * time.Second)
		wantAddresses(t, w, "db.internal", "10.0.0.2", "10.0.0.1")
	})
}

// A thousand names: lookups are spread, series and memory are limited.
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
		dns := &fakeResolver{}
		dns.answer = func(name string) ([]netip.Addr, error) {
			var n int
			var a []netip.Addr
			_, err := fmt.Sscanf(name, "service-%d.internal", &n)
			for i := range 4 {
				a = append(a, netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), byte(i + 1)}))
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
		steady := 0 // maximum per second in the last minute
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
		if most > 2*(int(time.Second/lookupGap)+1) || steady > 200 {
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

// Hanging lookups do not block scrapes, alerts and reloads, and their number is limited.
func TestHangingLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Config
		for i := range 1000 {
			c.Services = append(c.Services, Service{Name: fmt.Sprintf("service-%d.internal", i), Port: 5432})
		}
		var mu sync.Mutex
		hanging, most := 0, 0
		w := start(t, c, func(ctx context.Context, _ Service, _ family) ([]netip.Addr, error) {
			mu.Lock()
			hanging++
			most = max(most, hanging)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			hanging--
			mu.Unlock()
			return nil, ctx.Err()
		})
		time.Sleep(9 * time.Second)
		begin := time.Now()
		gather(t, w)
		w.Addresses("service-1.internal")
		w.Pinned(netip.MustParsePrefix("10.0.0.1/32"), 5432)
		if err := w.Reload(c.Services[:500]); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 0 { // fake clock: any wait shows
			t.Errorf("took %s", took)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if most != 2*maxLookups {
			t.Errorf("%d concurrent lookups, want %d", most, 2*maxLookups)
		}
	})
}

// Addresses survive a reload and a restart.
func TestReloadAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneService(time.Minute)
		c.StateDirectory = t.TempDir()
		dns := &fakeResolver{answer: fixedAnswer(t, "10.0.0.1")}
		w, stop := run(t, c, dns.lookup)
		time.Sleep(time.Minute)
		dns.set(fixedAnswer(t, "10.0.0.2 10.0.0.3"))
		time.Sleep(2 * time.Minute)
		wantAddresses(t, w, "db.internal", "10.0.0.2 10.0.0.3", "10.0.0.1")
		more := append(slices.Clone(c.Services), Service{Name: "web.internal", Port: 80})
		if err := w.Reload(more); err != nil {
			t.Fatal(err)
		}
		wantAddresses(t, w, "db.internal", "10.0.0.2 10.0.0.3", "10.0.0.1")
		time.Sleep(time.Second)
		wantAddresses(t, w, "web.internal", "10.0.0.2 10.0.0.3", "")
		if err := w.Reload(slices.Concat(more, more)); err == nil {
			t.Error("duplicate name accepted")
		}
		wantAddresses(t, w, "web.internal", "10.0.0.2 10.0.0.3", "")
		stop()
		time.Sleep(time.Hour)
		known, err := ReadState(c.StateDirectory, "db.internal")
		if err != nil || known.Port != 5432 || texts(known.Current) != "10.0.0.2 10.0.0.3" || texts(known.Former) != "10.0.0.1" {
			t.Errorf("state file: %+v, %v", known, err)
		}
		// An address may have been in rotation before the restart.
		dns.set(fixedAnswer(t, "10.0.0.2"))
		w = start(t, c, dns.lookup)
		time.Sleep(50 * time.Second)
		wantAddresses(t, w, "db.internal", "10.0.0.2 10.0.0.3", "10.0.0.1")
		time.Sleep(time.Minute)
		wantAddresses(t, w, "db.internal", "10.0.0.2", "10.0.0.1 10.0.0.3")
		if changed := metric(t, w, "tcphup_service_last_change_timestamp_seconds"); time.Since(time.Unix(int64(changed), 0)) > 2*time.Minute {
			t.Errorf("last change %v", changed)
		}
	})
}

// Addresses from the state file are returned only after a successful lookup: the name may
// have changed in between.
func TestAddressesBeforeFirstLookup(t *testing.T) {
	w := newWatcher(t, "10.0.0.2", "10.0.0.1")
	answers := make(chan []netip.Addr, 1)
	w.lookup = func(ctx context.Context, _ Service, f family) ([]netip.Addr, error) {
		if f == ipv6 {
			return nil, fail(notFound, "no such host")
		}
		select {
		case a := <-answers:
			return a, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		default:
			return nil, errors.New("no answer")
		}
	}
	w.watches["db.internal"].service.Interval = time.Millisecond
	w.watches["db.internal"].history.answered = [len(families)]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	defer func() { cancel(); <-done }()
	failures := func() uint64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.watches["db.internal"].lookups[ipv4].failures
	}
	nstest.Eventually(t, "a failed lookup", func() bool { return failures() > 0 })
	if current, former := w.Addresses("db.internal"); len(current)+len(former) > 0 {
		t.Errorf("before the first lookup: current %v, former %v", current, former)
	}
	wantAddresses(t, w, "db.internal", "10.0.0.2", "10.0.0.1")
	answers <- addrs(t, "10.0.0.1") // the name returned to it
	nstest.Eventually(t, "a successful lookup", func() bool {
		current, former := w.Addresses("db.internal")
		return texts(current) == "10.0.0.1 10.0.0.2" && len(former) == 0
	})
}
