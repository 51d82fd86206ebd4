package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHealthcheck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int // 0: nobody listens
		exit   int
	}{
		{name: "healthy", status: http.StatusOK, exit: exitDone},
		{name: "asks for credentials", status: http.StatusUnauthorized, exit: exitDone},
		{name: "not healthy", status: http.StatusServiceUnavailable, exit: exitIncomplete},
		{name: "somebody else", status: http.StatusNotFound, exit: exitIncomplete},
		{name: "nobody listens", exit: exitIncomplete},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tt.status) }))
			defer server.Close()
			if tt.status == 0 {
				server.Close()
			}
			if got := run([]string{"healthcheck", server.URL}); got != tt.exit {
				t.Errorf("exit code %d, want %d", got, tt.exit)
			}
		})
	}
	if got := run([]string{"healthcheck", "http://a b"}); got != exitUsage {
		t.Errorf("exit code %d for a malformed URL, want %d", got, exitUsage)
	}
}
