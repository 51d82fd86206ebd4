package server

import (
	"log/slog"
	"testing"
)

// testServer returns a server that does not listen.
func testServer(t *testing.T, o Options) *server {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	x := newServer(o)
	closeAudit, err := x.openAudit()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeAudit)
	c, err := x.load()
	if err == nil {
		err = x.build(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.actuator.Close)
	return x
}
