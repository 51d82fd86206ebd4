package main

import (
	"fmt"
	"time"
)

// trend is the course of a value that must stay flat over a run.
type trend struct {
	name, unit string
	scale      float64 // factor from values to units of the report
	bound      float64 // maximum drift
	share      float64 // a drift below this share of the mean is tolerated; 0: none is
	every      time.Duration
	levels     []point
}

// point is the minimum within one interval. Work in progress raises single samples only; a
// leak raises the minimum.
type point struct{ at, value float64 } // at in seconds

// add adds a sample; at is the time since the start of the run.
func (t *trend) add(at time.Duration, value float64) {
	slot := (at / t.every * t.every).Seconds()
	if n := len(t.levels); n > 0 && t.levels[n-1].at == slot {
		t.levels[n-1].value = min(t.levels[n-1].value, value)
		return
	}
	t.levels = append(t.levels, point{slot, value})
}

// secondHalf returns the second half of the points; the first half is the warm-up.
func (t *trend) secondHalf() []point { return t.levels[len(t.levels)/2:] }

// slope returns the slope per second of the least-squares line through the second half.
func (t *trend) slope() float64 {
	points := t.secondHalf()
	var meanAt, mean float64
	for _, p := range points {
		meanAt += p.at / float64(len(points))
		mean += p.value / float64(len(points))
	}
	var covariance, variance float64
	for _, p := range points {
		covariance += (p.at - meanAt) * (p.value - mean)
		variance += (p.at - meanAt) * (p.at - meanAt)
	}
	if variance == 0 {
		return 0
	}
	return covariance / variance
}

// drift returns the rise of the line over the second half.
func (t *trend) drift() float64 {
	points := t.secondHalf()
	if len(points) == 0 {
		return 0
	}
	return t.slope() * (points[len(points)-1].at - points[0].at)
}

// minPoints is the minimum number of points for a verdict.
const minPoints = 6

// flat returns an error when the drift exceeds the bound. decided is false when the run was
// too short for a verdict.
func (t *trend) flat() (decided bool, err error) {
	points := t.secondHalf()
	if len(points) < minPoints {
		return false, nil
	}
	var mean float64
	for _, p := range points {
		mean += p.value / float64(len(points))
	}
	if drift := t.drift(); drift > t.bound && drift > t.share*mean {
		return true, fmt.Errorf("%s rose by %.1f%s over the second half, more than %s", t.name, drift*t.scale, t.unit, t.limit())
	}
	return true, nil
}

// limit formats the bound.
func (t *trend) limit() string {
	text := fmt.Sprintf("%g%s", t.bound*t.scale, t.unit)
	if t.share > 0 {
		text += fmt.Sprintf(" and %g %%", t.share*100)
	}
	return text
}

// trends are the checked resources of tcphup.
type trends struct{ memory, goroutines, fds trend }

func newTrends() *trends {
	const every = 10 * time.Second
	return &trends{
		memory:     trend{name: "resident memory", unit: " MiB", scale: 1. / (1 << 20), bound: 4 << 20, share: 0.1, every: every},
		goroutines: trend{name: "goroutines", scale: 1, bound: 3, every: every},
		fds:        trend{name: "descriptors", scale: 1, bound: 3, every: every},
	}
}

func (t *trends) all() []*trend { return []*trend{&t.memory, &t.goroutines, &t.fds} }
