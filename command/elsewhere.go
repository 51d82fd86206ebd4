package command

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// maxElsewhere limits the addresses of formatAddresses.
const maxElsewhere = 5

// elsewhere returns a note about the connections to the same ports that lead to other
// addresses, or "" if no HOST is a name. After a failover a name has its new address, and
// the stale connections lead to the old one. An error becomes the note: it is no reason
// against the hang-up.
func (h *hangupCommand) elsewhere(ctx context.Context) string {
	s := &h.selector
	if len(s.Ports) == 0 || s.Direction == sockdiag.Inbound || !slices.ContainsFunc(h.hosts, isName) {
		return ""
	}
	counts, err := h.countElsewhere(ctx, slices.Concat(s.Destinations, s.Except), s.Ports)
	if err != nil {
		return fmt.Sprintf("tcphup: cannot look for connections that lead elsewhere: %v\n", err)
	}
	maps.DeleteFunc(counts, func(a netip.Addr, _ int) bool { return h.resolved.mayHave(a) })
	return noteElsewhere(counts, s.Ports, h.filters())
}

// countElsewhere counts the open outbound connections to the ports by remote address,
// without those to the prefixes. The other filters of the selection apply.
func (s *selection) countElsewhere(ctx context.Context, except []netip.Prefix, ports []sockdiag.PortRange) (map[netip.Addr]int, error) {
	others := s.selector
	others.Direction, others.Destinations, others.Except, others.Ports = sockdiag.Outbound, sockdiag.Everywhere(), except, ports
	return s.countOpen(ctx, others)
}

// leftUndecided returns a note about the open connections to the addresses that --stale leaves
// alone because they may be former ones, or "" without any. The filters of the selection apply. An
// error becomes the note, see elsewhere.
func (s *selection) leftUndecided(ctx context.Context) string {
	if len(s.stale.undecided) == 0 {
		return ""
	}
	undecided := s.selector
	undecided.Destinations = s.stale.undecided
	switch counts, err := s.countOpen(ctx, undecided); {
	case err != nil:
		return fmt.Sprintf("; cannot count the connections left alone: %v", err)
	case len(counts) > 0:
		return "; connections left alone: " + formatAddresses(counts)
	default:
		return ""
	}
}

// countOpen counts the open connections that the selector and the owner filter match, by remote
// address.
func (s *selection) countOpen(ctx context.Context, others sockdiag.Selector) (map[netip.Addr]int, error) {
	if others.States == 0 {
		others.States = sockdiag.States(sockdiag.Established, sockdiag.SynSent, sockdiag.CloseWait)
	}
	in := s.scope // the report has the namespaces that cannot be read
	counts := make(map[netip.Addr]int)
	count := func(f *listedFlow) { counts[f.Remote.Addr()]++ }
	if s.owner.IsZero() {
		_, err := in.scan(ctx, &others, count)
		return counts, err
	}
	found, err := s.scanOwned(ctx, &in, &others)
	for _, f := range found.flows {
		count(f)
	}
	return counts, err
}

// byCount returns the addresses, those with the most connections first.
func byCount(counts map[netip.Addr]int) []netip.Addr {
	return slices.SortedFunc(maps.Keys(counts), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), a.Compare(b))
	})
}

// isName reports whether a HOST is neither an address nor a prefix.
func isName(host string) bool {
	_, err := address.Parse(host)
	return err != nil
}

// formatAddresses lists the addresses with the most connections first.
func formatAddresses(counts map[netip.Addr]int) string {
	var list []string
	addresses := byCount(counts)
	for _, a := range addresses[:min(len(addresses), maxElsewhere)] {
		list = append(list, fmt.Sprintf("%s (%d)", a, counts[a]))
	}
	if more := len(addresses) - maxElsewhere; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, ", ")
}

// noteElsewhere lists the addresses. The command in the note has the filters. It has no address
// if there are several: those of other services may be among them.
func noteElsewhere(counts map[netip.Addr]int, ports []sockdiag.PortRange, filters []string) string {
	total := 0
	for _, n := range counts {
		total += n
	}
	if total == 0 {
		return ""
	}
	host := "ADDRESS"
	if len(counts) == 1 {
		host = byCount(counts)[0].String()
	}
	port := sockdiag.FormatPorts(ports)
	verb := "lead"
	if total == 1 {
		verb = "leads"
	}
	return fmt.Sprintf("tcphup: %s to port %s %s elsewhere: %s; to hang up: tcphup %s\n",
		text.Plural(total, "connection"), port, verb, formatAddresses(counts), strings.Join(slices.Concat([]string{host, port}, filters), " "))
}
