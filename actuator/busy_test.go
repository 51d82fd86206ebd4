package actuator

import (
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

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

// Times that are equal do not show the order of request and response.
func TestOwesResponse(t *testing.T) {
	const tie, answer = 5 * time.Second, 10 * time.Second
	flow := func(sent, received uint64, acked time.Duration) sockdiag.Flow {
		return sockdiag.Flow{HasInfo: true, TCPInfo: sockdiag.TCPInfo{
			LastDataSent: tie, LastDataReceived: tie, LastAckReceived: acked, HasBytes: true, BytesSent: sent, BytesReceived: received,
		}}
	}
	late := flow(10, 10, answer)
	late.TCPInfo.LastDataSent, late.TCPInfo.LastDataReceived = answer, answer
	lateUnanswered := late
	lateUnanswered.TCPInfo.BytesReceived = 0
	subflow, answered := flow(10, 10, tie), flow(10, 10, tie)
	answered.TCPInfo.LastDataSent = 2 * tie
	mptcp := sockdiag.Flow{Protocol: sockdiag.MPTCP, HasMPTCPInfo: true}
	for _, tt := range []struct {
		name      string
		flow      sockdiag.Flow
		subflows  []sockdiag.Flow
		direction sockdiag.Direction
		owed      bool
	}{
		{name: "nothing sent", flow: flow(0, 10, tie)},
		{name: "nothing transferred", flow: flow(0, 0, tie)},
		{name: "nothing received, for however long", flow: lateUnanswered, owed: true},
		{name: "undecided", flow: flow(10, 10, tie), owed: true},
		{name: "undecided for longer than answer", flow: late},
		{name: "delayed acknowledgement, for however long", flow: func() sockdiag.Flow {
			f := late
			f.TCPInfo.LastAckReceived -= 44 * time.Millisecond
			return f
		}(), owed: true},
		{name: "keepalive since then", flow: func() sockdiag.Flow {
			f := late
			f.TCPInfo.LastAckReceived = time.Second
			return f
		}()},
		{name: "inbound, nothing received", flow: flow(10, 0, tie), direction: sockdiag.Inbound},
		{name: "inbound, nothing sent", flow: flow(0, 10, tie), direction: sockdiag.Inbound, owed: true},
		{name: "inbound, undecided", flow: flow(10, 10, tie), direction: sockdiag.Inbound, owed: true},
		{name: "inbound, delayed acknowledgement of a response", flow: func() sockdiag.Flow {
			f := late
			f.TCPInfo.LastAckReceived -= 44 * time.Millisecond
			return f
		}(), direction: sockdiag.Inbound},
		{name: "mptcp without times, undecided by its subflow", flow: mptcp, subflows: []sockdiag.Flow{subflow}, owed: true},
		{name: "mptcp without times, answered on its subflow", flow: mptcp, subflows: []sockdiag.Flow{answered}},
		{name: "mptcp without times and subflows", flow: mptcp},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := &action{Request: hangup.Request{DrainAnswer: answer}}
			target := &target{Result: hangup.Result{Direction: tt.direction, Subflows: tt.subflows}}
			if got := x.isBusy(target, &tt.flow); got != tt.owed {
				t.Errorf("response owed is %v, want %v", got, tt.owed)
			}
		})
	}
}

func TestMessage(t *testing.T) {
	flow := func(sent, received time.Duration) sockdiag.Flow {
		return sockdiag.Flow{State: sockdiag.Established, HasInfo: true, TCPInfo: sockdiag.TCPInfo{
			LastDataSent: sent, LastDataReceived: received, HasBytes: true, BytesSent: 1, BytesReceived: 1,
		}}
	}
	with := func(f sockdiag.Flow, change func(*sockdiag.Flow)) sockdiag.Flow {
		change(&f)
		return f
	}
	const now, before = messagePause / 2, 2 * messagePause
	idle := flow(before, before)
	for _, tt := range []struct {
		name      string
		flow      sockdiag.Flow
		direction sockdiag.Direction
		want      string
	}{
		{name: "idle", flow: idle},
		{name: "receiving", flow: flow(before, now), want: "data was arriving"},
		{name: "sending", flow: flow(now, before)},
		{name: "unread", flow: with(idle, func(f *sockdiag.Flow) { f.ReceiveQueue = 1 }), want: "received data was unread"},
		{name: "just opened", flow: with(flow(now, now), func(f *sockdiag.Flow) { f.TCPInfo.BytesReceived = 0 })},
		{name: "complete", flow: with(flow(before, now), func(f *sockdiag.Flow) { f.State = sockdiag.CloseWait })},
		{name: "stalled", flow: with(flow(before, now), func(f *sockdiag.Flow) { f.Timer, f.Retries = sockdiag.TimerRetransmit, 1 })},
		{name: "inbound, receiving", flow: flow(before, now), direction: sockdiag.Inbound},
		{name: "inbound, sending", flow: flow(now, before), direction: sockdiag.Inbound, want: "data was being sent"},
		{name: "inbound, queued", flow: with(idle, func(f *sockdiag.Flow) { f.SendQueue = 1 }), direction: sockdiag.Inbound, want: "data was being sent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := (&target{Result: hangup.Result{Direction: tt.direction}}).message(&tt.flow); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
