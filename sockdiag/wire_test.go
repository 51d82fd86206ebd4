package sockdiag

import (
	"cmp"
	"encoding/binary"
	"testing"
)

// What the counters of a flow say of who has opened it. Queues are read before them.
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
		{name: "opened, data both acknowledged and sent twice", acked: 1001, sent: 1500, retrans: 500, want: OpenedHere},
		{name: "accepted, likewise", acked: 1000, sent: 1500, retrans: 500, want: OpenedByPeer},
		{name: "accepted, data on its way", acked: 1000, sent: 1200, sendQueue: 200, want: OpenedByPeer},
		{name: "accepted, data on its way and some not sent", acked: 1000, sent: 1200, sendQueue: 250, notSent: 50, want: OpenerUnknown},
		{name: "opened, a byte that could not be sent", acked: 2, sent: 2, sendQueue: 1, notSent: 1, want: OpenerUnknown},
		{name: "accepted, a byte acknowledged since its queue was read", acked: 1001, sent: 1001, sendQueue: 1, want: OpenerUnknown},
		{name: "opened, data on its way", acked: 1001, sent: 1200, sendQueue: 200, want: OpenerUnknown},
		{name: "opened, data that nobody acknowledges", acked: 1001, sent: 1400, retrans: 200, sendQueue: 200, retransmits: 3, want: OpenedHere},
		{name: "opened, data sent since its queue was read", acked: 1001, sent: 1200, want: OpenerUnknown},
		{name: "opened, a byte that could not be retransmitted", acked: 2, sent: 3, sendQueue: 1, retransmits: 2, want: OpenerUnknown},
		{name: "close_wait", state: CloseWait, acked: 1, want: OpenedHere},
		{name: "a FIN has been acknowledged", state: FinWait2, acked: 1, want: OpenerUnknown},
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
			if got := opener(b, &f); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
			if got := opener(b[:len(b)-1], &f); got != OpenerUnknown {
				t.Errorf("a kernel that does not count says %d", got)
			}
		})
	}
}
