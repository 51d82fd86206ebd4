package nstest

import (
	"testing"
	"time"
)

// HangGuard bounds each wait for an event. Only a hang exceeds it, even on a busy machine.
const HangGuard = time.Minute

// Eventually polls until condition is true. After HangGuard it fails the test.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(HangGuard)
	for pause := time.Millisecond; !condition(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out after %v: %s", HangGuard, what)
		}
		time.Sleep(pause)
	}
}
