package main

import (
	"fmt"
	"time"
)

// trend is how something that is to stay flat went over a run.
type trend struct {
	name, unit string
	scale      float64 // of the values, in the report
	bound      float64 // of the drift
	share      float64 // of the level: a drift that is less is none; 0 means not to ask
	every      time.Duration
	levels     []point
}

// point is the resting level of some seconds: the least that was seen. What is under
// way at a moment comes and goes, and what leaks stays.
type point struct{ at, value float64 } // at in seconds

// add notes what was seen at a time since the start of the run.
func (t *trend) add(at time.Duration, value float64) {
	slot := (at / t.every * t.every).Seconds()
	if n := len(t.levels); n > 0 && t.levels[n-1].at == slot {
		t.levels[n-1].value = min(t.levels[n-1].value, value)
		return
	}
	t.levels = append(t.levels, point{slot, value})
}

// judged is the second half: the first is for warming up.
func (t *trend) judged() []point { return t.levels[len(t.levels)/2:] }

// slope is that of the least-squares line through the second half, per second.
func (t *trend) slope() float64 {
	points := t.judged()
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

// drift is how far the line rises or falls over the second half.
func (t *trend) drift() float64 {
	points := t.judged()
	if len(points) == 0 {
		return 0
	}
	return t.slope() * (points[len(points)-1].at - points[0].at)
}

// enoughLevels is how many a judgement takes: fewer say more of the moment than of
// the trend.
const enoughLevels = 6

// flat returns an error when the level rises past the bound. decided is false when the
// run was too short to tell.
func (t *trend) flat() (decided bool, err error) {
	points := t.judged()
	if len(points) < enoughLevels {
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

// limit says the bound.
func (t *trend) limit() string {
	text := fmt.Sprintf("%g%s", t.bound*t.scale, t.unit)
	if t.share > 0 {
		text += fmt.Sprintf(" and %g %%", t.share*100)
	}
	return text
}

// trends are what tcphup is judged by.
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
