package sockdiag

import (
	"net/netip"
	"testing"
)

func TestDirection(t *testing.T) {
	listener := func(family Family, local string) Flow {
		return Flow{State: Listen, Family: family, Local: netip.MustParseAddrPort(local)}
	}
	ephemeral := PortRange{First: 32768, Last: 60999}
	tests := []struct {
		name          string
		listeners     []Flow
		ephemeral     PortRange
		state         State // Established unless given
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
		{name: "SYN received", state: SynRecv, local: "10.0.0.1:40001", remote: "10.0.0.2:80", want: Inbound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l Listeners
			for _, f := range tt.listeners {
				l.Add(&f)
			}
			l.SetEphemeral(tt.ephemeral)
			f := Flow{State: tt.state, Local: netip.MustParseAddrPort(tt.local), Remote: netip.MustParseAddrPort(tt.remote)}
			if f.State == 0 {
				f.State = Established
			}
			if got := l.Direction(&f); got != tt.want {
				t.Errorf("%s to %s is %v, want %v", tt.local, tt.remote, got, tt.want)
			}
		})
	}
}
