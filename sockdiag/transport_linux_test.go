package sockdiag

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/netns"
	"tcphup/test/kit/nstest"
)

// A receive without a datagram waits for one, and ends with the context.
func TestWait(t *testing.T) {
	c := mustDial(t)
	ctx, cancel := context.WithCancel(t.Context())
	waiting, result := make(chan struct{}), make(chan error)
	kernel, times := c.receive, 0
	c.receive = func(b []byte) (int, error) {
		close(waiting)
		return kernel(b)
	}
	go func() {
		_, err := c.datagram(ctx, c.buffer)
		result <- err
	}()
	<-waiting
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := c.transport.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
	c.receive = func(b []byte) (int, error) {
		if times++; times%2 == 1 {
			return 0, unix.EAGAIN
		}
		return kernel(b)
	}
	for _, err := range c.Flows(t.Context(), Query{States: Open}) {
		if err != nil {
			t.Error(err)
		}
	}
	if times < 2 {
		t.Errorf("%d receives", times)
	}
}

// A Conn that is opened again reads the namespace of the thread, with the buffers that it has.
func TestPrivilegedReopen(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		pair(t, "127.0.0.1:0", "127.0.0.1", false)
		other, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = other.Close() })
		var c Conn
		count := func() (n int) {
			for f, err := range c.Flows(t.Context(), Query{States: States(Established)}) {
				if err != nil {
					t.Error(err)
				}
				if f.Netns != 7 {
					t.Errorf("network namespace is %d", f.Netns)
				}
				n++
			}
			return n
		}
		reopen := func() error { return c.Reopen(7) }
		if err := reopen(); err != nil {
			t.Fatal(err)
		}
		buffer := &c.buffer[0]
		if n := count(); n != 2 {
			t.Errorf("%d flows, want 2", n)
		}
		if err := errors.Join(c.Close(), c.Close(), other.Do(reopen)); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != 0 || &c.buffer[0] != buffer {
			t.Errorf("%d flows in an empty namespace", n)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Lookup(t.Context(), &Flow{Family: IPv4}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}

// BenchmarkReopen measures opening and closing a socket.
func BenchmarkReopen(b *testing.B) {
	var c Conn
	for b.Loop() {
		if err := c.Reopen(1); err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
