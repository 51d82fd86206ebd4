package main

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestFlat(t *testing.T) {
	const mib = 1 << 20
	random := rand.New(rand.NewPCG(1, 2))
	// busy models work in progress: mostly 0, at times up to most.
	busy := func(most float64) float64 { return most * max(0, random.Float64()*2-1) }
	tests := []struct {
		name    string
		trend   func(*trends) *trend
		run     time.Duration
		value   func(minutes float64) float64
		decided bool
		leaks   bool
	}{
		{"goroutines that come and go", goroutines, 10 * time.Minute, func(float64) float64 { return 20 + busy(200) }, true, false},
		{"one goroutine a minute", goroutines, 10 * time.Minute, func(m float64) float64 { return 20 + busy(200) + m }, true, true},
		{"descriptors that stay", fds, 10 * time.Minute, func(float64) float64 { return 12 }, true, false},
		{"one descriptor a minute", fds, 10 * time.Minute, func(m float64) float64 { return 12 + float64(int(m)) }, true, true},
		{"one descriptor each ten seconds of two minutes", fds, 2 * time.Minute, func(m float64) float64 { return 12 + float64(int(6*m)) }, true, true},
		{"memory of a heap that is collected", memory, 10 * time.Minute, func(float64) float64 { return 30*mib + busy(8*mib) }, true, false},
		{"memory that warms up", memory, 10 * time.Minute, func(m float64) float64 { return 20*mib + min(m, 4)*4*mib + busy(2*mib) }, true, false},
		{"a mebibyte a minute", memory, 10 * time.Minute, func(m float64) float64 { return 30*mib + m*mib + busy(2*mib) }, true, true},
		{"a drift below one tenth", memory, 10 * time.Minute, func(m float64) float64 { return 100*mib + m*mib }, true, false},
		{"memory that goes away", memory, 10 * time.Minute, func(m float64) float64 { return 60*mib - 2*m*mib }, true, false},
		{"run too short", fds, 20 * time.Second, func(m float64) float64 { return 12 + 60*m }, false, false},
		{"no samples", fds, 0, func(float64) float64 { return 0 }, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			series := tt.trend(newTrends())
			for at := time.Duration(0); at < tt.run; at += time.Second {
				series.add(at, tt.value(at.Minutes()))
			}
			decided, err := series.flat()
			if decided != tt.decided || (err != nil) != tt.leaks {
				t.Errorf("decided %v, %v; drift %v", decided, err, series.drift())
			}
		})
	}
}

func memory(t *trends) *trend     { return &t.memory }
func goroutines(t *trends) *trend { return &t.goroutines }
func fds(t *trends) *trend        { return &t.fds }

// TestSlope checks that the slope covers only the second half, per second.
func TestSlope(t *testing.T) {
	series := newTrends().fds
	for at := time.Duration(0); at < 10*time.Minute; at += time.Second {
		value := 100.
		if at >= 5*time.Minute {
			value = 10 + 2*float64(at/(10*time.Second)*10)
		}
		series.add(at, value)
	}
	if got := series.slope(); got < 1.999 || got > 2.001 {
		t.Errorf("slope %v, want 2 a second", got)
	}
	if got := series.drift(); got < 579 || got > 581 {
		t.Errorf("drift %v, want 580 over 290 s", got)
	}
}
