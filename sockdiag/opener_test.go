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
