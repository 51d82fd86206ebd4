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
	barsTop   = 12 // y of the tallest bar, below its label
	barsFloor = 50 // y of the base line
	minHeight = 3  // keeps a bucket with few sockets visible
)

// bounds are the upper bounds of the buckets of collector.Destination.Idle.
var bounds = collector.IdleBuckets()

// histogram is an SVG chart of the idle times of a destination's sockets.
type histogram struct {
	Title string // the values, for screen readers
	Bars  []bar
	Peak  tick   // the number of sockets of the tallest bar, which sets the scale
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
	X, Y int
	Text string
}

// newHistogram returns the chart of collector.Destination.Idle.
func newHistogram(counts []int) histogram {
	h := histogram{Width: len(counts) * barStep, Floor: barsFloor}
	most := max(1, slices.Max(counts))
	var parts []string
	for i, n := range counts {
		if n == 0 {
			continue
		}
		height := max(minHeight, n*(barsFloor-barsTop)/most)
		if n == most {
			h.Peak = tick{X: i*barStep + barStep/2, Y: barsTop - 3, Text: strconv.Itoa(n)}
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, bucketText(i)))
		h.Bars = append(h.Bars, bar{
			X: i*barStep + (barStep-barWidth)/2, Y: barsFloor - height, Width: barWidth, Height: height,
			Age: ageOf(i), Title: text.Plural(n, "socket") + ", idle " + bucketText(i),
		})
	}
	h.Title = "Sockets by idle time: " + strings.Join(parts, "; ")
	if len(parts) == 0 {
		h.Title = "No sockets with a known idle time"
	}
	for i, bound := range bounds {
		if slices.Contains([]time.Duration{time.Second, 30 * time.Second, 5 * time.Minute, text.VeryLongIdle}, bound) {
			h.Ticks = append(h.Ticks, tick{X: (i + 1) * barStep, Y: barsFloor + 12, Text: roundText(bound)})
		}
	}
	return h
}

// bucketText returns the name of a bucket.
func bucketText(i int) string {
	if i >= len(bounds) {
		return "over " + roundText(bounds[len(bounds)-1])
	}
	return "up to " + roundText(bounds[i])
}

// ageOf returns the age class of a bucket.
func ageOf(i int) string {
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
	switch {
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	default:
		return fmt.Sprintf("%d s", d/time.Second)
	}
}
