package command

import (
	"net/netip"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

func reconnected(to string) hangup.Result {
	r := hangup.Result{Flow: sockdiag.Flow{Remote: netip.MustParseAddrPort("10.20.0.5:5432")}, Reconnect: &hangup.Reconnect{After: 2100 * time.Millisecond}}
	if to != "" {
		r.Reconnect.Remote = netip.MustParseAddrPort(to)
	}
	return r
}

// The line has each address once, and is loud about those that were hung up.
func TestReconnects(t *testing.T) {
	const next = "10.30.0.5:5432"
	for _, tt := range []struct {
		results []hangup.Result
		style   style
		want    string
	}{
		{[]hangup.Result{{}}, "", ""},
		{[]hangup.Result{reconnected(next), reconnected(next), reconnected(next)}, "", "reconnected to 10.30.0.5 (3)"},
		{[]hangup.Result{reconnected("10.20.0.5:5432"), reconnected("10.20.0.5:5432")}, loud, "reconnected to the same address 10.20.0.5 (2)"},
		{
			[]hangup.Result{reconnected(""), reconnected(next), reconnected("10.40.0.5:5432"), reconnected("10.20.0.5:5432"), reconnected("10.40.0.5:5432")}, loud,
			"reconnected to the same address 10.20.0.5 (1); reconnected to 10.40.0.5 (2), 10.30.0.5 (1); no reconnect seen in 2.1s (1)",
		},
		{
			[]hangup.Result{
				reconnected("10.0.0.1:1"), reconnected("10.0.0.2:1"), reconnected("10.0.0.3:1"),
				reconnected("10.0.0.4:1"), reconnected("10.0.0.5:1"), reconnected("10.0.0.6:1"),
			}, "",
			"reconnected to 10.0.0.1 (1), 10.0.0.2 (1), 10.0.0.3 (1), 10.0.0.4 (1), 10.0.0.5 (1), and 1 more",
		},
	} {
		if style, got := reconnects(&hangup.Report{Results: tt.results}); got != tt.want || style != tt.style {
			t.Errorf("%q, style %q; want %q, %q", got, style, tt.want, tt.style)
		}
	}
}
