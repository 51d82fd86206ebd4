package command

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/services"
	"tcphup/sockdiag"
)

// maxCommands limits the commands of listElsewhere.
const maxCommands = 20

// listElsewhere prints a command for each address that connections to the port of --stale
// lead to, without the current addresses of the name. It returns the error for the command
// line; cause is why the former addresses are unknown.
func (s *selection) listElsewhere(ctx context.Context, cause error, stderr io.Writer) error {
	name, port, err := address.ParseService(s.stale.service)
	if err != nil {
		return fmt.Errorf("%w: --stale: %w", ErrUsage, err)
	}
	const hint = "add --state.directory or --former ADDRESS"
	if port == 0 {
		return inputError{fmt.Errorf("%w; write NAME:PORT to list connections that lead elsewhere, or %s", cause, hint)}
	}
	resolved, err := services.Resolve(ctx, services.Service{Name: name, Port: port})
	if err != nil {
		return inputError{fmt.Errorf("%w; cannot look up current addresses of %s: %w; %s", cause, name, err, hint)}
	}
	var current []netip.Prefix
	for _, a := range resolved.Addrs {
		if prefix, err := address.FromAddr(a); err == nil {
			current = append(current, prefix)
		}
	}
	counts, err := s.countElsewhere(ctx, slices.Concat(current, s.selector.Except), sockdiag.Ports(port))
	if err != nil {
		return inputError{fmt.Errorf("%w; cannot look for connections that lead elsewhere: %w; %s", cause, err, hint)}
	}
	// The address may be a current one if the lookup of its family failed.
	maps.DeleteFunc(counts, func(a netip.Addr, _ int) bool { return resolved.Err(a) != nil })
	if len(counts) == 0 {
		return inputError{fmt.Errorf("%w; no connection to port %d leads elsewhere; %s", cause, port, hint)}
	}
	addresses := byCount(counts)
	for _, a := range addresses[:min(len(addresses), maxCommands)] {
		verb := "lead"
		if counts[a] == 1 {
			verb = "leads"
		}
		fmt.Fprintf(stderr, "tcphup: %s to port %d %s to %s; to hang up: tcphup %s\n", text.Plural(counts[a], "connection"), port, verb, a,
			strings.Join(append([]string{a.String(), strconv.Itoa(int(port))}, s.filters()...), " "))
	}
	if more := len(addresses) - maxCommands; more > 0 {
		fmt.Fprintf(stderr, "tcphup: others lead to %d more addresses; to list all: tcphup list\n", more)
	}
	return inputError{fmt.Errorf("%w; run one of the commands above, or %s", cause, hint)}
}
