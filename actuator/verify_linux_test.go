package actuator

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// After the end of its context, an action reports the result of one last lookup, even if
// the context aborted an earlier one.
func TestLastLookup(t *testing.T) {
	conn, err := sockdiag.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	x := &action{Actuator: New(Config{}), Request: hangup.Request{Linger: time.Minute}}
	ended := &target{in: &namespace{conn: conn}, phase: phaseHungUp, actedAt: time.Now(), note: "data was arriving", Result: hangup.Result{Method: hangup.Shutdown, Flow: sockdiag.Flow{
		Family: sockdiag.IPv4, Cookie: 1, Local: netip.MustParseAddrPort("127.0.0.1:1"), Remote: netip.MustParseAddrPort("127.0.0.1:1"),
	}}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x.awaitEnds(ctx, []*target{ended}, time.Minute)
	if ended.phase != phaseHungUp {
		t.Errorf("phase is %d after an aborted lookup", ended.phase)
	}
	x.verify(ctx, []*target{ended})
	if ended.phase != phaseDone || ended.Outcome != hangup.Closed ||
		ended.Detail != "connection ended; data was arriving" {
		t.Errorf("got phase %d, %+v", ended.phase, ended.Result)
	}
}

// A flow that lingers is not destroyed if its socket has another connection of the same
// addresses by then.
func TestPrivilegedReusedBeforeDestroy(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		fd := app.Connect(server.Addr(), false, false)
		conn, err := sockdiag.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		x := &action{Actuator: New(Config{})}
		lingering := &target{in: &namespace{conn: conn}, phase: phaseVerifying, Result: hangup.Result{
			Flow: flowTo(t, server.Addr()), Method: hangup.Shutdown, Outcome: hangup.Lingering,
		}}
		if x.destroyUnresponsive(t.Context(), lingering) || lingering.Outcome != hangup.Closed {
			t.Errorf("got %+v", lingering.Result)
		}
		if got := app.Call("write %d", fd); got != "write ok 1" {
			t.Errorf("the new connection was closed: %s", got)
		}
	})
}
