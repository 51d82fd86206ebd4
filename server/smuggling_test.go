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
)

// A request with two lengths is the last one of its connection: a proxy may have seen its end
// elsewhere, and what follows may be of another client.
func TestSmuggledRequest(t *testing.T) {
	var served atomic.Int32
	s := httptest.NewServer(routes{"GET /{$}": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) })}.mux())
	defer s.Close()
	const get = "GET / HTTP/1.1\r\nHost: localhost\r\n"
	const last = "Connection: close\r\n\r\n"
	for _, tt := range []struct {
		name, requests string
		want           int
	}{
		{"two requests", get + "\r\n" + get + last, 2},
		{"content length", get + "Content-Length: 2\r\n\r\nxx" + get + last, 2},
		{"both lengths", get + "Transfer-Encoding: chunked\r\nContent-Length: 100\r\n\r\n0\r\n\r\n" + get + last, 1},
		{"both lengths, folded", get + "Transfer-Encoding:\r\n chunked\r\nContent-Length: 100\r\n\r\n0\r\n\r\n" + get + last, 1},
		{"two encodings", get + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + get + last, 0},
		{"two content lengths", get + "Content-Length: 0\r\nContent-Length: 100\r\n\r\n" + get + last, 0},
		{"space before the colon", get + "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + get + last, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			served.Store(0)
			if _, err := fmt.Fprint(conn, tt.requests); err != nil {
				t.Fatal(err)
			}
			responses, _ := io.ReadAll(conn) // until the server closes the connection
			if n := int(served.Load()); n != tt.want || strings.Count(string(responses), "HTTP/1.1 200 ") != tt.want {
				t.Errorf("%d requests served, want %d: %q", n, tt.want, responses)
			}
		})
	}
}
