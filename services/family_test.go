package services

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A family with failing lookups keeps its addresses and does not delay the other family,
// whose old addresses become former.
func TestFamiliesApart(t *testing.T) {
	for name, six := range map[string]func(context.Context) error{
		"refused": func(context.Context) error { return fail("REFUSED", "server misbehaving") },
		"dropped": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		for _, settle := range []time.Duration{3 * time.Second, time.Minute, 10 * time.Minute} {
			t.Run(fmt.Sprintf("%s/%s", name, settle), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dns := &fakeResolver{answer: fixedAnswer(t, "10.0.0.1 fd00::1")}
					var broken atomic.Bool
					w := start(t, oneService(settle), func(ctx context.Context, s Service, f family) ([]netip.Addr, error) {
						if broken.Load() && f == ipv6 {
							return nil, six(ctx)
						}
						return dns.lookup(ctx, s, f)
					})
					time.Sleep(time.Hour)
					broken.Store(true)
					dns.set(fixedAnswer(t, "10.0.0.2"))
					time.Sleep(DefaultInterval*6/5 + settle + max(settle/lookupsPerSettle, minPause)*6/5)
					wantAddresses(t, w, "db.internal", "10.0.0.2 fd00::1", "10.0.0.1")
					time.Sleep(time.Hour)
					wantAddresses(t, w, "db.internal", "10.0.0.2 fd00::1", "10.0.0.1")
					if err := w.Status()[0].Err; err == nil {
						t.Error("no error in the status")
					}
					broken.Store(false)
					time.Sleep(20*time.Second + 2*settle)
					wantAddresses(t, w, "db.internal", "10.0.0.2", "10.0.0.1 fd00::1")
				})
			})
		}
	}
}

// Addresses excludes a family without a successful lookup since the start.
func TestFamilyNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneService(time.Minute)
		c.StateDirectory = t.TempDir()
		before := newWatcher(t, "10.0.0.2 fd00::2", "10.0.0.1 fd00::1")
		before.state, before.dirty = stateIn(c.StateDirectory), true
		before.save()
		dns := &fakeResolver{answer: fixedAnswer(t, "10.0.0.2")}
		w := start(t, c, func(ctx context.Context, s Service, f family) ([]netip.Addr, error) {
			if f == ipv6 {
				return nil, fail("REFUSED", "server misbehaving")
			}
			return dns.lookup(ctx, s, f)
		})
		time.Sleep(time.Hour)
		wantAddresses(t, w, "db.internal", "10.0.0.2 fd00::2", "10.0.0.1 fd00::1")
		if current, former := w.Addresses("db.internal"); texts(current) != "10.0.0.2" || texts(former) != "10.0.0.1" {
			t.Errorf("current %v, former %v", current, former)
		}
	})
}

// Hanging lookups of hundreds of names in one family do not delay the other family.
func TestHangingFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Config
		for i := range 400 {
			c.Services = append(c.Services, Service{Name: fmt.Sprintf("service-%d.internal", i), Port: 5432})
		}
		dns := &fakeResolver{answer: fixedAnswer(t, "10.0.0.1")}
		w := start(t, c, func(ctx context.Context, s Service, f family) ([]netip.Addr, error) {
			if f == ipv6 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return dns.lookup(ctx, s, f)
		})
		time.Sleep(time.Minute)
		dns.set(fixedAnswer(t, "10.0.0.2"))
		time.Sleep(85 * time.Second)
		for i := range 400 {
			wantAddresses(t, w, fmt.Sprintf("service-%d.internal", i), "10.0.0.2", "10.0.0.1")
		}
	})
}
