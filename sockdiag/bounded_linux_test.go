package sockdiag

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
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

// After a blocked call the socket stays open: the call may still use its descriptor.
func TestBlockedConn(t *testing.T) {
	c := mustDial(t)
	returned := make(chan struct{})
	c.Bound(&BlockedCalls{Limit: time.Minute})
	c.blocked, c.unfinished = returned, true
	socket := c.transport
	for _, err := range c.Flows(t.Context(), Query{States: Open}) {
		if !errors.Is(err, ErrBlocked) {
			t.Errorf("got %v, want %v", err, ErrBlocked)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(socket.fd), unix.F_GETFD, 0); err != nil {
		t.Errorf("the socket is closed: %v", err)
	}
	if c.transport == socket {
		t.Error("a closed connection has its socket")
	}
	close(returned)
	nstest.Eventually(t, "the socket is closed", func() bool {
		_, err := unix.FcntlInt(uintptr(socket.fd), unix.F_GETFD, 0)
		return err != nil
	})
}
