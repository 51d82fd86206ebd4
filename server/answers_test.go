package server

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// dialRaw opens a connection that reads nothing unless the test does.
func dialRaw(t *testing.T, s *httptest.Server, send string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	return c
}

// Clients that do not read take at most so many slots, and only until others want
// them.
func TestSlowReaders(t *testing.T) {
	const most, slow = 3, 6 // more would have the others wait for longer than answerWait, on a busy machine
	var running, peak atomic.Int32
	block := strings.Repeat("x", 1<<20)
	large := newAnswers(most)
	s := httptest.NewServer(large.limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := running.Add(1)
		defer running.Add(-1)
		for was := peak.Load(); now > was && !peak.CompareAndSwap(was, now); was = peak.Load() {
		}
		if r.URL.Path == "/short" {
			fmt.Fprint(w, "short")
			return
		}
		for range 100 { // more than fits into any buffer on the way
			if _, err := io.WriteString(w, block); err != nil {
				return
			}
		}
	})))
	t.Cleanup(s.CloseClientConnections)
	for range slow {
		dialRaw(t, s, "GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	nstest.Eventually(t, "all slots are taken", func() bool { return running.Load() == most })
	for range 3 {
		answer, err := http.Get(s.URL + "/short")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || string(body) != "short" {
			t.Errorf("beside slow readers: %s %q, %v", answer.Status, body, err)
		}
	}
	if got := peak.Load(); got > most {
		t.Errorf("%d answers were made at a time, want %d at most", got, most)
	}
	s.CloseClientConnections()
	nstest.Eventually(t, "nothing is left", func() bool {
		large.mu.Lock()
		defer large.mu.Unlock()
		return len(large.slots) == 0 && len(large.running) == 0
	})
}
