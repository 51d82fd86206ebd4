package command

import (
	"net/netip"
	"testing"

	"tcphup/sockdiag"
)

// With several addresses the command in the note has none: each may belong to another service.
func TestNoteElsewhere(t *testing.T) {
	a, b := netip.MustParseAddr("10.20.0.5"), netip.MustParseAddr("10.30.0.9")
	many := make(map[netip.Addr]int)
	for i := range byte(7) {
		many[netip.AddrFrom4([4]byte{10, 0, 0, i})] = int(i) + 1
	}
	for _, tt := range []struct {
		counts map[netip.Addr]int
		want   string
	}{
		{nil, ""},
		{map[netip.Addr]int{a: 1}, "tcphup: 1 connection to port 5432 leads elsewhere: 10.20.0.5 (1); to hang up: tcphup 10.20.0.5 5432 --pid=7\n"},
		{map[netip.Addr]int{a: 1, b: 2}, "tcphup: 3 connections to port 5432 lead elsewhere: 10.30.0.9 (2), 10.20.0.5 (1); to hang up: tcphup ADDRESS 5432 --pid=7\n"},
		{many, "tcphup: 28 connections to port 5432 lead elsewhere: 10.0.0.6 (7), 10.0.0.5 (6), 10.0.0.4 (5), 10.0.0.3 (4), 10.0.0.2 (3), and 2 more; to hang up: tcphup ADDRESS 5432 --pid=7\n"},
	} {
		if got := noteElsewhere(tt.counts, sockdiag.Ports(5432), []string{"--pid=7"}); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
