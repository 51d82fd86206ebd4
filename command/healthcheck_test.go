package command

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHealthcheck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int // 0: no server
		fails  bool
	}{
		{name: "healthy", status: http.StatusOK},
		{name: "credentials required", status: http.StatusUnauthorized},
		{name: "unhealthy", status: http.StatusServiceUnavailable, fails: true},
		{name: "another server", status: http.StatusNotFound, fails: true},
		{name: "no server", fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tt.status) }))
			defer server.Close()
			if tt.status == 0 {
				server.Close()
			}
			if err := Run(t.Context(), []string{"healthcheck", server.URL}); (err != nil) != tt.fails || errors.Is(err, ErrUsage) {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := Run(t.Context(), []string{"healthcheck", "http://a b"}); !errors.Is(err, ErrUsage) {
		t.Errorf("malformed URL: %v", err)
	}
}
