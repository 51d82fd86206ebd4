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
	counts := []int{1000, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2}
	h := newHistogram(counts)
	if len(h.Bars) != 3 || h.Bars[0].Height != barsFloor-barsTop || h.Bars[1].Height != minHeight || h.Bars[2].Age != "stale" || h.Peak.Text != "1000" || h.Peak.Y >= h.Bars[0].Y {
		t.Errorf("%+v", h.Bars)
	}
	for _, b := range h.Bars {
		if b.X < 0 || b.Y < 0 || b.X+b.Width > h.Width || b.Y+b.Height != barsFloor {
			t.Errorf("bar outside of the chart: %+v", b)
		}
	}
}
