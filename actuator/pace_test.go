package actuator

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// The pacer keeps the mean rate and a minimum gap, with jitter.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate = 1000, 50
		p := pacer{interval: interval(rate)}
		start, last := time.Now(), time.Now()
		gaps := make(map[time.Duration]bool)
		for i := range n {
			sleep(t.Context(), p.delay())
			gap := time.Since(last)
			if i > 0 && (gap < p.interval/2 || gap > p.interval*3/2) {
				t.Fatalf("action %d is %v after the previous one, want %v ± 50 %%", i, gap, p.interval)
			}
			gaps[gap] = true
			last = time.Now()
			p.used()
		}
		if mean := time.Since(start) / (n - 1); mean < p.interval*9/10 || mean > p.interval*11/10 {
			t.Errorf("the mean pause is %v, want about %v", mean, p.interval)
		}
		if len(gaps) < n/2 {
			t.Errorf("%d different gaps of %d: no jitter", len(gaps), n)
		}

		start = time.Now()
		unpaced := pacer{interval: interval(0)}
		for range n {
			sleep(t.Context(), unpaced.delay())
			unpaced.used()
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("without a rate %d actions took %v", n, took)
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start = time.Now()
		sleep(ctx, p.delay())
		if took := time.Since(start); took != 0 {
			t.Errorf("after the end of the context the pacer waited %v", took)
		}
	})
}
