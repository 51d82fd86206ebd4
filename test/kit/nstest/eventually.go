package nstest

import (
	"testing"
	"time"
)

// Eventually waits until condition holds and fails the test, saying what it
// waited for, when that takes more than ten seconds.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for pause := time.Millisecond; !condition(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s in vain: %s", what)
		}
		time.Sleep(pause)
	}
}
