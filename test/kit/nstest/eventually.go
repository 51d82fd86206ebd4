package nstest

import (
	"testing"
	"time"
)

// Limit bounds every wait for an event. Only a test that fails reaches it.
const Limit = time.Minute

// Eventually polls condition until it holds. After Limit it fails the test with what
// it waited for.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(Limit)
	for pause := time.Millisecond; !condition(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", Limit, what)
		}
		time.Sleep(pause)
	}
}
