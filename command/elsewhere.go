package command

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// maxElsewhere limits the addresses of a note about other destinations.
const maxElsewhere = 5

// elsewhere returns a note about the connections to the same ports that lead to other
// addresses, or "" if no HOST is a name. After a failover a name has its new address, and
// the stale connections lead to the old one. An error becomes the note: it is no reason
// against the hang-up.
func (h *hangupCommand) elsewhere(ctx context.Context) string {
	own := &h.request.Selector
	if len(own.Ports) == 0 || len(h.targets) == 0 || !slices.ContainsFunc(h.targets[:len(h.targets)-1], isName) {
		return ""
	}
	counts := make(map[netip.Addr]int)
	others := sockdiag.Selector{
		Destinations: sockdiag.Everywhere(), Except: slices.Concat(own.Destinations, own.Except), Ports: own.Ports,
		States: sockdiag.States(sockdiag.Established, sockdiag.SynSent, sockdiag.CloseWait),
	}
	in := h.scope // namespaces without an answer are in the report
	if _, err := in.scan(ctx, &others, func(f *listedFlow) { counts[f.Remote.Addr()]++ }); err != nil {
		return fmt.Sprintf("tcphup: cannot look for connections that lead elsewhere: %v\n", err)
	}
	return noteElsewhere(counts, own.Ports, h.scope.argument())
}

// isName reports whether a HOST is neither an address nor a prefix.
func isName(host string) bool {
	_, err := address.Parse(host)
	return err != nil
}

// noteElsewhere lists the addresses with the most connections first. netns is the flag
// --netns, with a leading space, or "".
func noteElsewhere(counts map[netip.Addr]int, ports []uint16, netns string) string {
	total := 0
	var addresses []netip.Addr
	for a, n := range counts {
		total += n
		addresses = append(addresses, a)
	}
	if total == 0 {
		return ""
	}
	slices.SortFunc(addresses, func(a, b netip.Addr) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), a.Compare(b)) })
	var list, hosts []string
	for _, a := range addresses[:min(len(addresses), maxElsewhere)] {
		list, hosts = append(list, fmt.Sprintf("%s (%d)", a, counts[a])), append(hosts, a.String())
	}
	if more := len(addresses) - maxElsewhere; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	port := strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ","), "[]")
	verb := "lead"
	if total == 1 {
		verb = "leads"
	}
	return fmt.Sprintf("tcphup: %s to port %s %s elsewhere: %s; to hang up: tcphup %s %s%s\n",
		text.Plural(total, "connection"), port, verb, strings.Join(list, ", "), strings.Join(hosts, " "), port, netns)
}
