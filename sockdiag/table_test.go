package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"iter"
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
		{name: "IPv4 wildcard rejects IPv6", listeners: []Flow{listener(IPv4, "0.0.0.0:80")}, local: "[2001:db8::1]:80", remote: "[2001:db8::2]:40000", want: Outbound},
		{name: "IPv6 wildcard accepts both", listeners: []Flow{listener(IPv6, "[::]:80")}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "same address", listeners: []Flow{listener(IPv4, "10.0.0.1:80")}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "another address", listeners: []Flow{listener(IPv4, "10.0.0.9:80")}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Outbound},
		{name: "listener on an ephemeral port", listeners: []Flow{listener(IPv4, "0.0.0.0:45000")}, ephemeral: ephemeral, local: "10.0.0.1:45000", remote: "10.0.0.2:40000", want: Inbound},
		{name: "opened here", ephemeral: ephemeral, local: "10.0.0.1:40000", remote: "10.0.0.2:80", want: Outbound},
		{name: "closed listener", ephemeral: ephemeral, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "closed listener, range unknown", local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Outbound},
		{name: "two ephemeral ports", ephemeral: ephemeral, local: "10.0.0.1:40001", remote: "10.0.0.2:40000", want: Outbound},
		{name: "two fixed ports", ephemeral: ephemeral, local: "10.0.0.1:1000", remote: "10.0.0.2:80", want: Outbound},
		{name: "SYN sent", listeners: []Flow{listener(IPv4, "0.0.0.0:80")}, state: SynSent, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Outbound},
		{name: "IPv6-only wildcard rejects IPv4", listeners: []Flow{v6only}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Outbound},
		{name: "IPv6-only wildcard accepts IPv6", listeners: []Flow{v6only}, local: "[2001:db8::1]:80", remote: "[2001:db8::2]:40000", want: Inbound},
		{name: "IPv4 wildcard of an IPv6 socket", listeners: []Flow{listener(IPv6, "0.0.0.0:80")}, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "IPv4 wildcard of an IPv6 socket rejects IPv6", listeners: []Flow{listener(IPv6, "0.0.0.0:80")}, local: "[2001:db8::1]:80", remote: "[2001:db8::2]:40000", want: Outbound},
		{name: "opened here from a fixed port to an ephemeral port", ephemeral: ephemeral, opener: OpenedHere, local: "10.0.0.1:1000", remote: "10.0.0.2:49152", want: Outbound},
		{name: "opened by a peer with another ephemeral range", ephemeral: ephemeral, opener: OpenedByPeer, local: "10.0.0.1:443", remote: "10.0.0.2:62000", want: Inbound},
		{name: "opened by a peer, two ephemeral ports", ephemeral: ephemeral, opener: OpenedByPeer, local: "10.0.0.1:40001", remote: "10.0.0.2:40000", want: Inbound},
		{name: "opened here from the port of a listener", listeners: []Flow{listener(IPv4, "0.0.0.0:80")}, opener: OpenedHere, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "simultaneous open", ephemeral: ephemeral, state: SynRecv, inode: 7, local: "10.0.0.1:40001", remote: "10.0.0.2:80", want: Outbound},
		{name: "TCP Fast Open", listeners: []Flow{listener(IPv4, "0.0.0.0:80")}, state: SynRecv, inode: 7, local: "10.0.0.1:80", remote: "10.0.0.2:40000", want: Inbound},
		{name: "SYN received", state: SynRecv, local: "10.0.0.1:40001", remote: "10.0.0.2:80", want: Inbound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := Table{Ephemeral: tt.ephemeral}
			for _, f := range tt.listeners {
				table.listeners.add(&f)
			}
			f := Flow{State: tt.state, Inode: tt.inode, Opener: tt.opener, Local: netip.MustParseAddrPort(tt.local), Remote: netip.MustParseAddrPort(tt.remote)}
			if f.State == 0 {
				f.State = Established
			}
			if got := table.Direction(&f); got != tt.want {
				t.Errorf("%s to %s is %v, want %v", tt.local, tt.remote, got, tt.want)
			}
		})
	}
}

// fakeReader is an in-memory socket table. Each MPTCP dump ends with mptcpErr, if set.
type fakeReader struct {
	flows    []Flow
	mptcpErr error
	dumps    int
}

func (r *fakeReader) Flows(_ context.Context, q Query) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		r.dumps++
		for _, f := range r.flows {
			if f.Protocol == q.Protocol && q.States.Has(f.State) && !yield(f, nil) {
				return
			}
		}
		if q.Protocol == MPTCP && r.mptcpErr != nil {
			yield(Flow{}, r.mptcpErr)
		}
	}
}

func mptcpFlow(token, inode uint32, local, remote string) Flow {
	return Flow{
		Protocol: MPTCP, State: Established, Inode: inode, MPTCPInfo: MPTCPInfo{Token: token},
		Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
	}
}

// subflowOf returns a TCP flow. Token 0 stands for a token hidden by the kernel.
func subflowOf(token, inode uint32, local, remote string) Flow {
	f := mptcpFlow(0, inode, local, remote)
	f.Protocol, f.IsSubflow, f.Subflow.Token = TCP, token != 0, token
	return f
}

func TestConnection(t *testing.T) {
	const local, remote = "10.0.0.1:40000", "10.0.0.2:80"
	var table Table
	kernel := &fakeReader{flows: []Flow{
		mptcpFlow(1, 100, local, remote),
		mptcpFlow(2, 0, local, remote), // closed by the application; its subflows keep inode 101
		mptcpFlow(3, 102, local, remote),
	}, mptcpErr: fmt.Errorf("dump: %w", ErrNoMPTCPDiag)}
	if err := table.ReadConnections(t.Context(), kernel, Open); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		flow Flow
		want uint32 // token; 0 means none
	}{
		{"token and inode", subflowOf(1, 100, local, remote), 1},
		{"token of a closed connection", subflowOf(2, 101, local, remote), 2},
		{"token without inode", subflowOf(1, 0, local, remote), 1},
		{"hidden token", subflowOf(0, 102, local, remote), 3},
		{"hidden token of a closed connection", subflowOf(0, 101, local, remote), 0},
		{"token has precedence over inode", subflowOf(2, 100, local, remote), 2},
		{"unknown token, known inode", subflowOf(9, 100, local, remote), 0},
		{"no process", subflowOf(0, 0, local, remote), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got uint32
			if i, ok := table.Connection(&tt.flow); ok {
				got = table.Connections()[i].MPTCPInfo.Token
			}
			if got != tt.want {
				t.Errorf("connection %d, want %d", got, tt.want)
			}
		})
	}
}

// A subflow has the direction of its connection. Where ports do not decide, the opener of
// the initial subflow does.
func TestMPTCPDirection(t *testing.T) {
	initial := func(token uint32, opener Opener, local, remote string) Flow {
		f := subflowOf(token, 0, local, remote)
		f.Opener = opener
		return f
	}
	listener := Flow{State: Listen, Family: IPv4, Local: netip.MustParseAddrPort("0.0.0.0:8080")}
	tests := []struct {
		name          string
		flows         []Flow // the connection first
		want, wantOwn Direction
		dumps         int
		again         bool // the second read dumps initial subflows again
	}{
		{"by ports", []Flow{
			mptcpFlow(1, 0, "10.0.0.1:40000", "10.0.0.2:80"), initial(1, OpenedHere, "10.0.0.1:40000", "10.0.0.2:80"),
		}, Outbound, Outbound, 2, false},
		{"by listener", []Flow{
			mptcpFlow(1, 0, "10.0.0.1:8080", "10.0.0.2:40000"), initial(1, OpenedHere, "10.0.0.1:8080", "10.0.0.2:40000"), listener,
		}, Inbound, Inbound, 2, false},
		{"opened here from a fixed port", []Flow{
			mptcpFlow(1, 0, "10.0.0.1:1000", "10.0.0.2:40000"), initial(1, OpenedHere, "10.0.0.1:1000", "10.0.0.2:40000"),
		}, Outbound, Outbound, 3, false},
		{"opened by the peer, two ephemeral ports", []Flow{
			mptcpFlow(1, 0, "10.0.0.1:40001", "10.0.0.2:40000"), initial(1, OpenedByPeer, "10.0.0.1:40001", "10.0.0.2:40000"),
		}, Inbound, Inbound, 3, false},
		{"initial subflow is gone", []Flow{
			mptcpFlow(1, 0, "10.0.0.1:1000", "10.0.0.2:40000"), initial(1, OpenedHere, "10.0.1.1:1000", "10.0.0.2:40000"),
		}, Inbound, Outbound, 3, false},
		{"opener not yet known", []Flow{
			mptcpFlow(1, 0, "10.0.0.1:1000", "10.0.0.2:40000"), initial(1, OpenerUnknown, "10.0.0.1:1000", "10.0.0.2:40000"),
		}, Inbound, Inbound, 3, true},
		{"subflow added by the peer", []Flow{
			mptcpFlow(1, 0, "10.0.0.1:40000", "10.0.0.2:80"), initial(1, OpenedByPeer, "10.0.0.1:8080", "10.0.0.2:50000"), listener,
		}, Outbound, Inbound, 2, false},
		{"another connection's subflow", []Flow{
			mptcpFlow(1, 0, "10.0.0.1:1000", "10.0.0.2:40000"), initial(9, OpenedHere, "10.0.0.1:1000", "10.0.0.2:40000"),
		}, Inbound, Outbound, 3, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := Table{Ephemeral: PortRange{First: 32768, Last: 60999}}
			kernel := &fakeReader{flows: tt.flows}
			if err := errors.Join(table.ReadListeners(t.Context(), kernel), table.ReadConnections(t.Context(), kernel, Open)); err != nil {
				t.Fatal(err)
			}
			if kernel.dumps != tt.dumps {
				t.Errorf("%d dumps, want %d", kernel.dumps, tt.dumps)
			}
			table.Reset()
			table.Ephemeral = PortRange{First: 32768, Last: 60999}
			if err := errors.Join(table.ReadListeners(t.Context(), kernel), table.ReadConnections(t.Context(), kernel, Open)); err != nil {
				t.Fatal(err)
			}
			if more := kernel.dumps - tt.dumps; more != 2 && !tt.again {
				t.Errorf("second read: %d dumps, want 2", more)
			} else if tt.again && more != 3 {
				t.Errorf("second read: %d dumps, want 3", more)
			}
			connection, subflow := &tt.flows[0], &tt.flows[1]
			if got := table.Direction(connection); got != tt.want {
				t.Errorf("connection is %v, want %v", got, tt.want)
			}
			if got := table.OwnDirection(subflow); got != tt.wantOwn {
				t.Errorf("subflow by itself is %v, want %v", got, tt.wantOwn)
			}
			if _, ok := table.Connection(subflow); ok && table.Direction(subflow) != tt.want {
				t.Errorf("subflow is %v, its connection %v", table.Direction(subflow), tt.want)
			}
		})
	}
}

// A Table has no listener of an earlier read, nor the memory for many of them.
func TestResetListeners(t *testing.T) {
	for _, n := range []int{1, keptListeners, keptListeners + 1} {
		table := new(Table)
		var first Flow
		for i := range n {
			listener := Flow{State: Listen, Local: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)}), 80)}
			table.AddListener(&listener)
			if i == 0 {
				first = listener
			}
		}
		for _, wildcard := range []string{"0.0.0.0:443", "[::]:8443"} {
			listener := Flow{State: Listen, Local: netip.MustParseAddrPort(wildcard)}
			if listener.Local.Addr().Is6() {
				listener.Family = IPv6
			}
			table.AddListener(&listener)
		}
		table.Reset()
		for _, local := range []netip.AddrPort{first.Local, netip.MustParseAddrPort("10.0.0.1:443"), netip.MustParseAddrPort("[2001:db8::1]:8443")} {
			f := Flow{State: Established, Local: local, Inode: 1}
			if table.Direction(&f) != Outbound {
				t.Errorf("%d listeners: %v is inbound", n, local)
			}
		}
		if kept := table.listeners.exact != nil; kept != (n <= keptListeners) {
			t.Errorf("%d listeners: memory kept: %t", n, kept)
		}
	}
}

// After an error the connections read so far stay in the Table.
func TestReadConnectionsError(t *testing.T) {
	table, broken := new(Table), errors.New("broken")
	kernel := &fakeReader{flows: []Flow{mptcpFlow(1, 100, "10.0.0.1:40000", "10.0.0.2:80")}, mptcpErr: broken}
	if err := table.ReadConnections(t.Context(), kernel, Open); !errors.Is(err, broken) || len(table.Connections()) != 1 {
		t.Errorf("%v, %d connections", err, len(table.Connections()))
	}
}

// A subflow shows that mptcp_diag is missing if the kernel has no MPTCP dump.
func TestLacksMPTCPDiag(t *testing.T) {
	const local, remote = "10.0.0.1:40000", "10.0.0.2:80"
	subflow, plain := subflowOf(1, 100, local, remote), subflowOf(0, 100, local, remote)
	table := new(Table)
	for _, tt := range []struct {
		name string
		err  error // of the dump
		want bool
	}{
		{"no module", fmt.Errorf("dump: %w", ErrNoMPTCPDiag), true},
		{"younger connection", nil, false},
	} {
		table.Reset()
		if err := table.ReadConnections(t.Context(), &fakeReader{mptcpErr: tt.err}, Open); err != nil {
			t.Fatal(err)
		}
		if got := table.LacksMPTCPDiag(&subflow); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
		if table.LacksMPTCPDiag(&plain) {
			t.Errorf("%s: true for a flow of TCP", tt.name)
		}
	}
}
