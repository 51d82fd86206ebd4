package sockdiag

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"testing"
)

func TestDirection(t *testing.T) {
	listener := func(family Family, local string) Flow {
		return Flow{State: Listen, Family: family, Local: netip.MustParseAddrPort(local)}
	}
	v6only := listener(IPv6, "[::]:80")
	v6only.V6Only = true
	ephemeral := PortRange{First: 32768, Last: 60999}
	tests := []struct {
		name          string
		listeners     []Flow
		ephemeral     PortRange
		state         State // Established unless given
		inode         uint32
		opener        Opener
		local, remote string
		want          Direction
	}{
		{name: "wildcard", listeners: []Flow{listener(IPv4, "0.0.0.0:80")}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "wildcard IPv4 leaves IPv6 alone", listeners: []Flow{listener(IPv4, "0.0.0.0:80")}, local: "[2001:db8::1]:80", remote: "[2001:db8::2]:40000", want: Outbound},
		{name: "wildcard IPv6 takes both", listeners: []Flow{listener(IPv6, "[::]:80")}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "own address", listeners: []Flow{listener(IPv4, "10.0.0.1:80")}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "another address", listeners: []Flow{listener(IPv4, "10.0.0.9:80")}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Outbound},
		{name: "listener on an ephemeral port", listeners: []Flow{listener(IPv4, "0.0.0.0:45000")}, ephemeral: ephemeral, local: "10.0.0.1:45000", remote: "10.0.0.2:40000", want: Inbound},
		{name: "opened here", ephemeral: ephemeral, local: "10.0.0.1:40000", remote: "10.0.0.2:80", want: Outbound},
		{name: "listener has gone", ephemeral: ephemeral, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "listener has gone, range unknown", local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Outbound},
		{name: "two ephemeral ports", ephemeral: ephemeral, local: "10.0.0.1:40001", remote: "10.0.0.2:40000", want: Outbound},
		{name: "two chosen ports", ephemeral: ephemeral, local: "10.0.0.1:1000", remote: "10.0.0.2:80", want: Outbound},
		{name: "SYN sent", listeners: []Flow{listener(IPv4, "0.0.0.0:80")}, state: SynSent, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Outbound},
		{name: "wildcard IPv6 alone", listeners: []Flow{v6only}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Outbound},
		{name: "wildcard IPv6 alone takes IPv6", listeners: []Flow{v6only}, local: "[2001:db8::1]:80", remote: "[2001:db8::2]:40000", want: Inbound},
		{name: "IPv4 wildcard of an IPv6 socket", listeners: []Flow{listener(IPv6, "0.0.0.0:80")}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "IPv4 wildcard of an IPv6 socket leaves IPv6 alone", listeners: []Flow{listener(IPv6, "0.0.0.0:80")}, local: "[2001:db8::1]:80", remote: "[2001:db8::2]:40000", want: Outbound},
		{name: "opened here from a chosen port to an ephemeral one", ephemeral: ephemeral, opener: OpenedHere, local: "10.0.0.1:1000", remote: "10.0.0.2:49152", want: Outbound},
		{name: "opened by a peer with a port of its own range", ephemeral: ephemeral, opener: OpenedByPeer, local: "10.0.0.1:443", remote: "10.0.0.2:62000", want: Inbound},
		{name: "opened by a peer, two ephemeral ports", ephemeral: ephemeral, opener: OpenedByPeer, local: "10.0.0.1:40001", remote: "10.0.0.2:40000", want: Inbound},
		{name: "opened here from the port of a listener", listeners: []Flow{listener(IPv4, "0.0.0.0:80")}, opener: OpenedHere, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "both have sent a SYN", ephemeral: ephemeral, state: SynRecv, inode: 7, local: "10.0.0.1:40001", remote: "10.0.0.2:80", want: Outbound},
		{name: "accepted with the SYN", listeners: []Flow{listener(IPv4, "0.0.0.0:80")}, state: SynRecv, inode: 7, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "SYN received", state: SynRecv, local: "10.0.0.1:40001", remote: "10.0.0.2:80", want: Inbound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l Listeners
			for _, f := range tt.listeners {
				l.Add(&f)
			}
			l.SetEphemeral(tt.ephemeral)
			f := Flow{State: tt.state, Inode: tt.inode, Opener: tt.opener, Local: netip.MustParseAddrPort(tt.local), Remote: netip.MustParseAddrPort(tt.remote)}
			if f.State == 0 {
				f.State = Established
			}
			if got := l.Direction(&f); got != tt.want {
				t.Errorf("%s to %s is %v, want %v", tt.local, tt.remote, got, tt.want)
			}
		})
	}
}

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
