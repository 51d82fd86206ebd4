package server

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"tcphup/test/kit/nstest"
)

// Connections beyond the limit close the oldest ones and do not block new clients.
func TestLimitConnections(t *testing.T) {
	const limit = 5
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", encrypted), func(t *testing.T) {
			var open atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") }))
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			limitConnections(s.Config, limit)
			limited := s.Config.ConnState
			s.Config.ConnState = func(c net.Conn, state http.ConnState) {
				switch state {
				case http.StateNew:
					open.Add(1)
				case http.StateClosed:
					open.Add(-1)
				default:
				}
				limited(c, state)
			}
			if encrypted {
				s.StartTLS()
			} else {
				s.Start()
			}
			t.Cleanup(s.Close)

			first := dialRaw(t, s, "")
			for i := range 4 * limit {
				half := "GET / HTTP/1.1\r\n"
				if encrypted || i%2 == 0 {
					half = ""
				}
				dialRaw(t, s, half)
			}
			if _, err := first.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
				t.Errorf("oldest connection: %v", err)
			}
			client := s.Client()
			for range 2 {
				response, err := client.Get(s.URL)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if err != nil || string(body) != "here" {
					t.Errorf("beside idle connections: %q, %v", body, err)
				}
			}
			nstest.Eventually(t, "connections beyond the limit are closed", func() bool { return open.Load() <= limit })
		})
	}
}
