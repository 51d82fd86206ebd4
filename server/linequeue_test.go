package server

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// blockedWriter blocks each Write until the channel has a value, which Write returns.
type blockedWriter struct {
	results chan error
	bytes.Buffer
}

func (w *blockedWriter) Write(b []byte) (int, error) {
	if err := <-w.results; err != nil {
		return 0, err
	}
	return w.Buffer.Write(b)
}

// A blocked writer blocks neither Write nor Close. Dropped lines are counted, and reported
// when lines are written again.
func TestLineQueueBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blockedWriter{results: make(chan error)}
		var q *LineQueue
		var drops []error
		q = NewLineQueue(w, func(err error) { drops = append(drops, err) }, func(dropped uint64) {
			if dropped != 3 {
				t.Errorf("%d lines reported as dropped, want 3", dropped)
			}
			_, _ = io.WriteString(q, "3 dropped\n")
		})
		line := []byte("x\n")
		if _, err := q.Write(line); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the goroutine has the first line
		for range maxQueuedLines + 3 {
			if n, err := q.Write(line); n != len(line) || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
		}
		if q.Dropped() != 3 || len(drops) != 3 || !errors.Is(drops[0], errQueueFull) {
			t.Errorf("%d lines dropped: %v", q.Dropped(), drops)
		}
		line[0] = 'y' // the queue has a copy
		begun := time.Now()
		q.Close() // no room
		if took := time.Since(begun); took != flushTimeout {
			t.Errorf("close took %s", took)
		}
		close(w.results)
		synctest.Wait()
		q.Close()
		if want := strings.Repeat("x\n", 1+maxQueuedLines) + "3 dropped\n"; w.String() != want {
			t.Errorf("%d bytes written, want %d", w.Len(), len(want))
		}
	})
}

// Bytes are bounded too.
func TestLineQueueBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blockedWriter{results: make(chan error)}
		q := NewLineQueue(w, nil, func(uint64) {})
		for range 3 {
			_, _ = q.Write(make([]byte, maxQueuedBytes/2))
		}
		if q.Dropped() != 1 {
			t.Errorf("%d lines dropped, want 1", q.Dropped())
		}
		close(w.results)
		synctest.Wait()
		_, _ = q.Write([]byte("later\n"))
		q.Close()
		if !strings.HasSuffix(w.String(), "later\n") || q.Dropped() != 1 {
			t.Error("no room after the queue was written")
		}
	})
}

// A failed write drops its line only.
func TestLineQueueErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blockedWriter{results: make(chan error, 3)}
		w.results <- os.ErrClosed
		w.results <- os.ErrClosed
		w.results <- nil
		dropped := uint64(0)
		var mu sync.Mutex
		var drops []error
		q := NewLineQueue(w, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			drops = append(drops, err)
		}, func(n uint64) { dropped = n })
		for _, line := range []string{"one\n", "two\n", "three\n"} {
			_, _ = io.WriteString(q, line)
		}
		q.Close()
		if w.String() != "three\n" || dropped != 2 || q.Dropped() != 2 || len(drops) != 2 || !errors.Is(drops[0], os.ErrClosed) {
			t.Errorf("wrote %q, %d reported, %v", w.String(), dropped, drops)
		}
	})
}
