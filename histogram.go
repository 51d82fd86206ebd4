package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcphup/collector"
	"tcphup/internal/text"
)

// Measures of a drawn histogram, in its own units: one is a pixel at full size.
const (
	barStep   = 20 // from one bar to the next
	barWidth  = 16
	barsFloor = 38 // where bars stand
	leastBar  = 3  // a bucket with one socket among thousands can still be seen
)

// histogram is the idle times of a destination's sockets as the page draws them.
type histogram struct {
	// Title says in words what is drawn.
	Title string
	Bars  []bar
	// Ticks name some of the boundaries between bars.
	Ticks []tick
	Width int
	Floor int
}

// bar is one bucket that holds sockets.
type bar struct {
	X, Y, Width, Height int
	// Age is how old the bucket is: fresh, idle, old or stale. It is a CSS class.
	Age   string
	Title string
}

type tick struct {
	X    int
	Text string
}

// newHistogram draws the counts of collector.Destination.Idle.
func newHistogram(counts []int) histogram {
	bounds := collector.IdleBuckets()
	h := histogram{Width: len(counts) * barStep, Floor: barsFloor}
	most := 1
	for _, n := range counts {
		most = max(most, n)
	}
	var words []string
	for i, n := range counts {
		if n == 0 {
			continue
		}
		height := max(leastBar, n*barsFloor/most)
		words = append(words, fmt.Sprintf("%d %s", n, bucketText(bounds, i)))
		h.Bars = append(h.Bars, bar{
			X: i*barStep + (barStep-barWidth)/2, Y: barsFloor - height, Width: barWidth, Height: height,
			Age: ageOf(bounds, i), Title: text.Plural(n, "socket") + ", idle " + bucketText(bounds, i),
		})
	}
	h.Title = "Sockets by idle time: " + strings.Join(words, "; ")
	if len(words) == 0 {
		h.Title = "No socket tells its idle time"
	}
	for i, bound := range bounds {
		if slices.Contains([]time.Duration{time.Second, 30 * time.Second, 5 * time.Minute, text.VeryLongIdle}, bound) {
			h.Ticks = append(h.Ticks, tick{X: (i + 1) * barStep, Text: roundText(bound)})
		}
	}
	return h
}

// bucketText names a bucket by its upper bound.
func bucketText(bounds []time.Duration, i int) string {
	if i >= len(bounds) {
		return "over " + roundText(bounds[len(bounds)-1])
	}
	return "up to " + roundText(bounds[i])
}

// ageOf is by the upper bound of the bucket.
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

// roundText writes a whole number of seconds, minutes or hours.
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

// bucketAt returns the bucket that the fraction of the sockets does not exceed; -1
// when there is no socket.
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
