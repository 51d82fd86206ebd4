package actuator

import (
	"net/netip"
	"testing"
)

// A change of addresses, or fewer segments, show that a socket was disconnected.
func TestSocketAddressesDiffer(t *testing.T) {
	local, remote, other := netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.5:80"), netip.MustParseAddrPort("10.0.0.6:80")
	none, unspecified := netip.AddrPort{}, netip.MustParseAddrPort("0.0.0.0:0")
	for _, tt := range []struct {
		name   string
		before socketAddresses
		after  socketAddresses
		differ bool
	}{
		{"shut down", socketAddresses{local, remote, 5}, socketAddresses{local, remote, 6}, false},
		{"ended", socketAddresses{local, remote, 5}, socketAddresses{local, none, 8}, false},
		{"another peer", socketAddresses{local, remote, 5}, socketAddresses{local, other, 9}, true},
		{"disconnected", socketAddresses{local, remote, 5}, socketAddresses{unspecified, none, 0}, true},
		{"connecting from the same port", socketAddresses{local, remote, 5}, socketAddresses{local, none, 1}, true},
		{"the same peer, from the same port", socketAddresses{local, remote, 5}, socketAddresses{local, remote, 3}, true},
		{"connecting, then shut down", socketAddresses{local, none, 1}, socketAddresses{unspecified, none, 0}, false},
		{"connecting, then refused", socketAddresses{local, none, 1}, socketAddresses{local, none, 0}, false},
		{"mptcp", socketAddresses{local, remote, 0}, socketAddresses{local, none, 0}, false},
	} {
		if got := tt.before.differ(tt.after); got != tt.differ {
			t.Errorf("%s: differ is %t", tt.name, got)
		}
	}
}
