package actuator

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// When its time is over, an action reports what one last lookup shows, whether or not
// the end of its context has cut an earlier lookup short.
func TestLastLookup(t *testing.T) {
	conn, err := sockdiag.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	x := &action{Actuator: New(Config{}), Request: hangup.Request{Linger: time.Minute}, conn: conn}
	ended := &target{phase: phaseHungUp, Result: hangup.Result{Method: hangup.Shutdown, Detail: "the owner can be reached", Flow: sockdiag.Flow{
		Family: sockdiag.IPv4, Cookie: 1, Local: netip.MustParseAddrPort("127.0.0.1:1"), Remote: netip.MustParseAddrPort("127.0.0.1:1"),
	}}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x.awaitEnds(ctx, []*target{ended}, time.Minute)
	if ended.phase != phaseHungUp {
		t.Errorf("phase is %d after a lookup that was cut short", ended.phase)
	}
	x.verify(ctx, []*target{ended})
	if ended.phase != phaseDone || ended.Outcome != hangup.Closed || ended.Detail != "the owner can be reached" {
		t.Errorf("got phase %d, %+v", ended.phase, ended.Result)
	}
}
