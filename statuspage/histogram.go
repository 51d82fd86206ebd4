package statuspage

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcphup/collector"
	"tcphup/internal/text"
)

// Dimensions of the SVG in user units, which are pixels at full size.
const (
	barStep   = 20 // distance between bars
	barWidth  = 16
	barsFloor = 38 // y of the base line
	minHeight = 3  // keeps a bucket with few sockets visible
)

// histogram is an SVG chart of the idle times of a destination's sockets.
type histogram struct {
	Title string // the values, for screen readers
	Bars  []bar
	Ticks []tick // labels of some bucket bounds
	Width int
	Floor int
}

// bar is a nonempty bucket.
type bar struct {
	X, Y, Width, Height int
	// Age is the CSS class: fresh, idle, old or stale.
	Age   string
	Title string
}

type tick struct {
	X    int
	Text string
}

// newHistogram returns the chart of collector.Destination.Idle.
func newHistogram(counts []int) histogram {
	bounds := collector.IdleBuckets()
	h := histogram{Width: len(counts) * barStep, Floor: barsFloor}
	most := 1
	for _, n := range counts {
		most = max(most, n)
	}
	var parts []string
	for i, n := range counts {
		if n == 0 {
			continue
		}
		height := max(minHeight, n*barsFloor/most)
		parts = append(parts, fmt.Sprintf("%d %s", n, bucketText(bounds, i)))
		h.Bars = append(h.Bars, bar{
			X: i*barStep + (barStep-barWidth)/2, Y: barsFloor - height, Width: barWidth, Height: height,
			Age: ageOf(bounds, i), Title: text.Plural(n, "socket") + ", idle " + bucketText(bounds, i),
		})
	}
	h.Title = "Sockets by idle time: " + strings.Join(parts, "; ")
	if len(parts) == 0 {
		h.Title = "No sockets with a known idle time"
	}
	for i, bound := range bounds {
		if slices.Contains([]time.Duration{time.Second, 30 * time.Second, 5 * time.Minute, text.VeryLongIdle}, bound) {
			h.Ticks = append(h.Ticks, tick{X: (i + 1) * barStep, Text: roundText(bound)})
		}
	}
	return h
}

// bucketText returns the name of a bucket.
func bucketText(bounds []time.Duration, i int) string {
	if i >= len(bounds) {
		return "over " + roundText(bounds[len(bounds)-1])
	}
	return "up to " + roundText(bounds[i])
}

// ageOf returns the age class of a bucket.
func ageOf(bounds []time.Duration, i int) string {
	switch {
	case i >= len(bounds):
		return "stale"
	case bounds[i] <= time.Minute:
		return "fresh"
	case bounds[i] <= text.LongIdle:
		return "idle"
	default:
		return "old"
	}
}

// roundText formats d in hours, minutes or seconds: the largest unit that divides it.
func roundText(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= u.unit && d%u.unit == 0 {
			return strconv.Itoa(int(d/u.unit)) + " " + u.name
		}
	}
	return strconv.Itoa(int(d/time.Second)) + " s"
}

// bucketAt returns the bucket with the given quantile, or -1 without sockets.
func bucketAt(counts []int, fraction float64) int {
	total := 0
	for _, n := range counts {
		total += n
	}
	last, left := -1, int(fraction*float64(total-1))+1
	for i, n := range counts {
		if n > 0 && left > 0 {
			last = i
		}
		left -= n
	}
	return last
}
