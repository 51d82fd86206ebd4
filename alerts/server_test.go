package alerts

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/hangup"
)

// pipeListener accepts in-memory connections, so that a server can run in a synctest
// bubble.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// serveBubble runs a server for the fixture until the test ends.
func serveBubble(t *testing.T, f *fixture) *pipeListener {
	t.Helper()
	l := newPipeListener()
	s := &http.Server{Handler: f}
	f.ConfigureServer(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
		time.Sleep(time.Second) // fake clock: connections linger after an early response
	})
	return l
}

func requestHead(token string, length int) string {
	return fmt.Sprintf("POST /alerts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+
		"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", token, length)
}

// exchange sends text and returns the status code of the response and its delay; 0 if the
// server closed the connection without a response.
func exchange(t *testing.T, c net.Conn, text string) (status int, took time.Duration) {
	t.Helper()
	begun := time.Now()
	go func() { _, _ = io.WriteString(c, text) }()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	took = time.Since(begun)
	if err != nil {
		return 0, took
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, took
}

// The server disconnects slow clients after the header or body timeout.
func TestSlowClients(t *testing.T) {
	body := string(notify(staleAlert("10.0.0.5", "80")))
	tests := []struct {
		name   string
		text   string
		status int
		within time.Duration
	}{
		{"nothing", "", 0, headerTimeout + time.Second},
		{"half a header", "POST /alerts HTTP/1.1\r\nHost: x\r\n", 0, headerTimeout + time.Second},
		{"half a body", requestHead(testToken, len(body)) + body[:20], 503, bodyTimeout + time.Second},
		{"no body", requestHead(testToken, len(body)), 503, bodyTimeout + time.Second},
		{"no body, wrong token", requestHead(otherToken, len(body)), 401, headerTimeout + bodyTimeout + time.Second},
		{"huge header", "POST /alerts HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10), 431, time.Second},
		{"huge Content-Length", requestHead(testToken, 17<<20) + body, 413, time.Second},
		{"good", requestHead(testToken, len(body)) + body, 200, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, DefaultRules(), nil)
				c := serveBubble(t, f).dial()
				defer func() { _ = c.Close() }()
				status, took := exchange(t, c, tt.text)
				if status != tt.status || took > tt.within {
					t.Errorf("status %d after %s, want %d within %s", status, took, tt.status, tt.within)
				}
				if tt.status != 200 && len(f.hang.seen()) > 0 {
					t.Errorf("actions: %v", f.hang.seen())
				}
			})
		})
	}
}

// The server disconnects a client that does not read its response.
func TestClientDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), nil)
		c := serveBubble(t, f).dial()
		defer func() { _ = c.Close() }()
		body := string(notify(staleAlert("10.0.0.5", "80")))
		if _, err := io.WriteString(c, requestHead(testToken, len(body))+body); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // fake clock
		if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
			t.Errorf("%d bytes to read after a minute, %v", n, err)
		}
	})
}

// Read deadlines do not end a longer action, and the keep-alive connection serves the next
// notification.
func TestLongActionOnKeepAliveConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), func(c *Config) { c.Timeout = time.Minute })
		f.hang.hangUp = func(ctx context.Context, _ hangup.Request) (*hangup.Report, error) {
			select {
			case <-time.After(40 * time.Second):
				return outcome(hangup.Closed, 1), nil
			case <-ctx.Done():
				return unfinished(0, 1), nil
			}
		}
		c := serveBubble(t, f).dial()
		defer func() { _ = c.Close() }()
		for i := range 3 {
			body := string(notify(staleAlert(fmt.Sprintf("10.0.0.%d", i+1), "80")))
			status, took := exchange(t, c, requestHead(testToken, len(body))+body)
			if status != 200 || took != 40*time.Second {
				t.Fatalf("notification %d: status %d after %s", i, status, took)
			}
			f.advance(time.Minute)
		}
	})
}

// A closed connection cancels the action.
func TestSenderClosesConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, DefaultRules(), nil)
		ended := make(chan time.Time, 1)
		f.hang.hangUp = func(ctx context.Context, a hangup.Request) (*hangup.Report, error) {
			r, err := blockUntilCancelled(ctx, a)
			ended <- time.Now()
			return r, err
		}
		c := serveBubble(t, f).dial()
		body := string(notify(staleAlert("10.0.0.5", "80")))
		if _, err := io.WriteString(c, requestHead(testToken, len(body))+body); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		begun := time.Now()
		_ = c.Close()
		if took := (<-ended).Sub(begun); took != 0 {
			t.Errorf("the action continued for %s", took)
		}
	})
}
