package statuspage

import (
	"testing"

	"tcphup/collector"
)

func TestHistogram(t *testing.T) {
	empty := make([]int, len(collector.IdleBuckets())+1)
	if h := newHistogram(empty); len(h.Bars) != 0 || h.Title != "No sockets with a known idle time" {
		t.Errorf("histogram of no sockets: %+v", h)
	}
	if got := bucketAt(empty, 0.5); got != -1 {
		t.Errorf("median of no sockets in bucket %d", got)
	}
	counts := []int{1000, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2}
	h := newHistogram(counts)
	if len(h.Bars) != 3 || h.Bars[0].Height != barsFloor || h.Bars[1].Height != minHeight || h.Bars[2].Age != "stale" {
		t.Errorf("%+v", h.Bars)
	}
	for _, b := range h.Bars {
		if b.X < 0 || b.Y < 0 || b.X+b.Width > h.Width || b.Y+b.Height != barsFloor {
			t.Errorf("bar outside of the chart: %+v", b)
		}
	}
	for _, tt := range []struct {
		counts   []int
		fraction float64
		want     int
	}{
		{counts, 0.5, 0}, {counts, 1, 11}, {[]int{0, 1, 1, 0}, 0.5, 1}, {[]int{0, 1, 2, 0}, 0.5, 2}, {[]int{0, 0, 5}, 0, 2},
	} {
		if got := bucketAt(tt.counts, tt.fraction); got != tt.want {
			t.Errorf("%v at %g: bucket %d, want %d", tt.counts, tt.fraction, got, tt.want)
		}
	}
}
