package sockdiag

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"
)

// A stop of this process for longer than the limit does not count as a blocked call.
func TestAwaitStopped(t *testing.T) {
	for range 5 {
		b, returned := BlockedCalls{Limit: 400 * time.Millisecond}, make(chan struct{})
		stopped := exec.Command("sh", "-c", fmt.Sprintf("kill -STOP %[1]d; sleep 0.6; kill -CONT %[1]d", os.Getpid()))
		if err := stopped.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = stopped.Wait(); close(returned) }()
		if !b.Await(returned, nil) {
			t.Error("abandoned")
		}
		<-returned
	}
}

func TestAwait(t *testing.T) {
	for _, tt := range []struct {
		name string
		ends time.Duration
		want bool
	}{
		{"ended", 0, true},
		{"ends in the last part", 1900 * time.Millisecond, true},
		{"ends after the limit", 2100 * time.Millisecond, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			b, returned, begun := BlockedCalls{Limit: 2 * time.Second}, make(chan struct{}), time.Now()
			go func() { time.Sleep(tt.ends); close(returned) }()
			if got := b.Await(returned, nil); got != tt.want || time.Since(begun) > b.Limit {
				t.Errorf("%s: got %t after %s", tt.name, got, time.Since(begun))
			}
			<-returned
		})
	}
}

func TestBlockedCalls(t *testing.T) {
	var b BlockedCalls
	returned := make(chan struct{})
	b.Add(7, returned)
	if !b.Has(7) || b.Has(8) {
		t.Error("the call is not blocked, or one of another namespace is")
	}
	close(returned)
	if b.Has(7) {
		t.Error("the call has returned")
	}
}
