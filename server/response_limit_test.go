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

// dialRaw opens a connection and sends a string. It reads nothing.
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

// Clients that do not read lose their slots to others.
func TestSlowReaders(t *testing.T) {
	const limit, slow = 3, 6 // with more, others may exceed maxWait on a busy machine
	var running, peak atomic.Int32
	block := strings.Repeat("x", 1<<20)
	large := newResponseLimiter(limit)
	s := httptest.NewServer(large.limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := running.Add(1)
		defer running.Add(-1)
		for old := peak.Load(); now > old && !peak.CompareAndSwap(old, now); old = peak.Load() {
		}
		if r.URL.Path == "/short" {
			fmt.Fprint(w, "short")
			return
		}
		for range 100 { // more than the buffers of kernel and server
			if _, err := io.WriteString(w, block); err != nil {
				return
			}
		}
	})))
	t.Cleanup(s.CloseClientConnections)
	for range slow {
		dialRaw(t, s, "GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	nstest.Eventually(t, "all slots are taken", func() bool { return running.Load() == limit })
	for range 3 {
		response, err := http.Get(s.URL + "/short")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || string(body) != "short" {
			t.Errorf("beside slow readers: %s %q, %v", response.Status, body, err)
		}
	}
	if got := peak.Load(); got > limit {
		t.Errorf("%d concurrent responses, want at most %d", got, limit)
	}
	s.CloseClientConnections()
	nstest.Eventually(t, "all slots are free", func() bool {
		large.mu.Lock()
		defer large.mu.Unlock()
		return len(large.slots) == 0 && len(large.running) == 0
	})
}
