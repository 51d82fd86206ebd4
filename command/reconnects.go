package command

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"tcphup/hangup"
	"tcphup/internal/text"
)

// reconnects returns the last line of a report: where the applications connected to after the
// hang-up. Reconnects to the same address come first and are loud: the hang-up did not help.
func reconnects(report *hangup.Report) (style, string) {
	same, other := make(map[netip.Addr]int), make(map[netip.Addr]int)
	none, watched := 0, time.Duration(0)
	for i := range report.Results {
		r := &report.Results[i]
		switch {
		case r.Reconnect == nil:
		case !r.Reconnect.Remote.IsValid():
			none++
			watched = max(watched, r.Reconnect.After)
		case r.Reconnect.SameAddress(&r.Flow):
			same[r.Reconnect.Remote.Addr()]++
		default:
			other[r.Reconnect.Remote.Addr()]++
		}
	}
	var parts []string
	if len(same) > 0 {
		parts = append(parts, "reconnected to the same address "+formatAddresses(same))
	}
	if len(other) > 0 {
		parts = append(parts, "reconnected to "+formatAddresses(other))
	}
	if none > 0 {
		parts = append(parts, fmt.Sprintf("no reconnect seen in %s (%d)", text.Duration(watched), none))
	}
	s := style("")
	if len(same) > 0 {
		s = loud
	}
	return s, strings.Join(parts, "; ")
}
