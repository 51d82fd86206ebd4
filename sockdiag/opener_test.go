package sockdiag

import (
	"cmp"
	"encoding/binary"
	"testing"
)

// The kernel reads the queues before the counters.
func TestOpener(t *testing.T) {
	tests := []struct {
		name                 string
		state                State
		acked, sent, retrans uint64
		sendQueue, notSent   uint32
		retransmits          uint8
		want                 Opener
	}{
		{name: "opened, no data", acked: 1, want: OpenedHere},
		{name: "accepted, no data", want: OpenedByPeer},
		{name: "opened, data acknowledged and retransmitted", acked: 1001, sent: 1500, retrans: 500, want: OpenedHere},
		{name: "accepted, data acknowledged and retransmitted", acked: 1000, sent: 1500, retrans: 500, want: OpenedByPeer},
		{name: "accepted, data in flight", acked: 1000, sent: 1200, sendQueue: 200, want: OpenedByPeer},
		{name: "accepted, data in flight and unsent data", acked: 1000, sent: 1200, sendQueue: 250, notSent: 50, want: OpenerUnknown},
		{name: "opened, a byte that failed to send", acked: 2, sent: 2, sendQueue: 1, notSent: 1, want: OpenerUnknown},
		{name: "accepted, a byte acknowledged since its queue was read", acked: 1001, sent: 1001, sendQueue: 1, want: OpenerUnknown},
		{name: "opened, data in flight", acked: 1001, sent: 1200, sendQueue: 200, want: OpenerUnknown},
		{name: "opened, unacknowledged data", acked: 1001, sent: 1400, retrans: 200, sendQueue: 200, retransmits: 3, want: OpenedHere},
		{name: "opened, data sent since its queue was read", acked: 1001, sent: 1200, want: OpenerUnknown},
		{name: "opened, a byte that failed to retransmit", acked: 2, sent: 3, sendQueue: 1, retransmits: 2, want: OpenerUnknown},
		{name: "close_wait", state: CloseWait, acked: 1, want: OpenedHere},
		{name: "acknowledged FIN", state: FinWait2, acked: 1, want: OpenerUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := make([]byte, 216)
			b[2] = tt.retransmits
			binary.NativeEndian.PutUint32(b[144:], tt.notSent)
			for at, n := range map[int]uint64{120: tt.acked, 200: tt.sent, 208: tt.retrans} {
				binary.NativeEndian.PutUint64(b[at:], n)
			}
			f := Flow{State: cmp.Or(tt.state, Established), SendQueue: tt.sendQueue}
			f.TCPInfo, _ = parseTCPInfo(b)
			if got := f.openerOfDump(); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
			f.TCPInfo, _ = parseTCPInfo(b[:len(b)-1])
			if got := f.openerOfDump(); got != OpenerUnknown {
				t.Errorf("kernel without counters: got %d", got)
			}
		})
	}
}

// Two messages with equal counters show the opener, also with data in flight and after a
// FIN.
func TestOpenerOfPair(t *testing.T) {
	flow := func(state State, acked, sent uint64, sendQueue, notSent uint32) Flow {
		return Flow{State: state, SendQueue: sendQueue, TCPInfo: TCPInfo{HasBytes: true, BytesAcked: acked, BytesSent: sent, NotSent: notSent}}
	}
	for _, tt := range []struct {
		name        string
		before, now Flow
		want        Opener
	}{
		{name: "opened, data in flight", now: flow(Established, 1001, 1200, 250, 50), want: OpenedHere},
		{name: "accepted, data in flight", now: flow(Established, 1000, 1200, 200, 0), want: OpenedByPeer},
		{name: "accepted, unsent data", now: flow(Established, 1000, 1200, 250, 50), want: OpenerUnknown},
		{name: "accepted, a byte acknowledged since its queue was read", before: flow(Established, 1000, 1001, 1, 0), now: flow(Established, 1001, 1001, 1, 0)},
		{name: "opened, a byte that failed to retransmit", now: flow(Established, 2, 3, 1, 0)},
		{name: "opened, FIN in flight", now: flow(FinWait1, 1001, 1000, 1, 0), want: OpenedHere},
		{name: "opened, FIN unsent", now: flow(FinWait1, 1001, 1000, 51, 51), want: OpenedHere},
		{name: "opened, FIN acknowledged", now: flow(FinWait2, 1002, 1000, 0, 0), want: OpenedHere},
		{name: "accepted, FIN in flight", now: flow(LastAck, 1000, 1000, 1, 0), want: OpenedByPeer},
		{name: "accepted, FIN acknowledged", now: flow(FinWait2, 1001, 1000, 0, 0), want: OpenedByPeer},
		{name: "FIN sent between the messages", before: flow(Established, 1000, 1000, 0, 0), now: flow(FinWait1, 1000, 1000, 1, 0)},
		{name: "handshake", now: flow(SynRecv, 0, 0, 0, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.before
			if before.State == 0 {
				before = tt.now
			}
			if got, _ := openerOfPair(&before, &tt.now); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
