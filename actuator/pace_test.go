package actuator

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// The pacer keeps the mean rate and a minimum gap, with jitter.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate = 1000, 50
		p := pacer{interval: interval(rate)}
		start, last := time.Now(), time.Now()
		gaps := make(map[time.Duration]bool)
		for i := range n {
			sleep(t.Context(), p.delay())
			gap := time.Since(last)
			if i > 0 && (gap < p.interval/2 || gap > p.interval*3/2) {
				t.Fatalf("action %d is %v after the previous one, want %v ± 50 %%", i, gap, p.interval)
			}
			gaps[gap] = true
			last = time.Now()
			p.used()
		}
		if mean := time.Since(start) / (n - 1); mean < p.interval*9/10 || mean > p.interval*11/10 {
			t.Errorf("the mean pause is %v, want about %v", mean, p.interval)
		}
		if len(gaps) < n/2 {
			t.Errorf("%d different gaps of %d: no jitter", len(gaps), n)
		}

		start = time.Now()
		unpaced := pacer{interval: interval(0)}
		for range n {
			sleep(t.Context(), unpaced.delay())
			unpaced.used()
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("without a rate %d actions took %v", n, took)
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start = time.Now()
		sleep(ctx, p.delay())
		if took := time.Since(start); took != 0 {
			t.Errorf("after the end of the context the pacer waited %v", took)
		}
	})
}

func TestIsBusy(t *testing.T) {
	const quiet = 100 * time.Millisecond
	flow := func(sent, received time.Duration) sockdiag.Flow {
		return sockdiag.Flow{HasInfo: true, TCPInfo: sockdiag.TCPInfo{LastDataSent: sent, LastDataReceived: received}}
	}
	queued := func(send, receive, unacked uint32) sockdiag.Flow {
		f := flow(time.Second, time.Second)
		f.SendQueue, f.ReceiveQueue, f.TCPInfo.Unacked = send, receive, unacked
		return f
	}
	inCloseWait := func(receive uint32) sockdiag.Flow {
		f := queued(0, receive, 0)
		f.State = sockdiag.CloseWait
		return f
	}
	stalled := queued(1, 0, 1)
	stalled.Timer, stalled.Retries = sockdiag.TimerRetransmit, 1
	mptcp := sockdiag.Flow{Protocol: sockdiag.MPTCP, HasMPTCPInfo: true, MPTCPInfo: sockdiag.MPTCPInfo{
		HasTimes: true, LastDataSent: time.Second, LastDataReceived: 2 * time.Second,
	}}
	for _, tt := range []struct {
		name      string
		flow      sockdiag.Flow
		direction sockdiag.Direction
		busy      bool
	}{
		{name: "quiet after a response", flow: flow(2*time.Second, time.Second)},
		{name: "response just received", flow: flow(2*time.Second, quiet/2), busy: true},
		{name: "request just sent", flow: flow(quiet/2, 2*time.Second), busy: true},
		{name: "awaiting a response", flow: flow(time.Second, 2*time.Second), busy: true},
		{name: "response sent", flow: flow(time.Second, 2*time.Second), direction: sockdiag.Inbound},
		{name: "response not sent", flow: flow(2*time.Second, time.Second), direction: sockdiag.Inbound, busy: true},
		{name: "unsent", flow: queued(1, 0, 0), busy: true},
		{name: "unread", flow: queued(0, 1, 0), busy: true},
		{name: "only the peer's FIN unread", flow: inCloseWait(1)},
		{name: "a byte before the peer's FIN", flow: inCloseWait(2), busy: true},
		{name: "unacknowledged", flow: queued(0, 0, 1), busy: true},
		{name: "stalled", flow: stalled},
		{name: "mptcp, awaiting a response", flow: mptcp, busy: true},
		{name: "no TCP information", flow: sockdiag.Flow{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := &action{Request: hangup.Request{DrainQuiet: quiet}}
			if got := x.isBusy(&target{Result: hangup.Result{Direction: tt.direction}}, &tt.flow); got != tt.busy {
				t.Errorf("busy is %v, want %v", got, tt.busy)
			}
		})
	}
}
