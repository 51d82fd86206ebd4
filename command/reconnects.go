package command

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
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

// formatAddresses lists the addresses with the most connections first.
func formatAddresses(counts map[netip.Addr]int) string {
	addresses := slices.SortedFunc(maps.Keys(counts), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), a.Compare(b))
	})
	var list []string
	for _, a := range addresses[:min(len(addresses), maxElsewhere)] {
		list = append(list, fmt.Sprintf("%s (%d)", a, counts[a]))
	}
	if more := len(addresses) - maxElsewhere; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, ", ")
}
