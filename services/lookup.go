package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxTargets limits the targets of SRV records.
const maxTargets = 64

// lookupError is a failed lookup. The reason identifies the kind of failure.
type lookupError struct {
	reason string
	err    error
}

func (e *lookupError) Error() string { return e.err.Error() }
func (e *lookupError) Unwrap() error { return e.err }

func fail(reason, format string, args ...any) error {
	return &lookupError{reason, fmt.Errorf(format, args...)}
}

// notFound is the reason for a response without an address of the family: the name or the
// record does not exist, which the resolver does not distinguish, or /etc/hosts has the name
// with addresses of the other family only.
const notFound = "not found"

// reason returns the reason of a failed lookup; "" if err is nil.
func reason(err error) string {
	if err == nil {
		return ""
	}
	if failed, ok := errors.AsType[*lookupError](err); ok {
		return failed.reason
	}
	return err.Error()
}

// lookup returns the addresses of a service in one family, distinct and sorted. Without
// Service.Resolver it uses the system's resolver settings: /etc/hosts, /etc/resolv.conf and
// the order of /etc/nsswitch.conf.
func lookup(ctx context.Context, s Service, f family) (addrs []netip.Addr, err error) {
	name := canonical(s.Name)
	if s.Resolver.IsValid() {
		name = strings.TrimSuffix(name, ".") + "." // excludes the search list
	}
	if isSRV(name) {
		addrs, err = lookupTargets(ctx, name, s, f)
	} else {
		addrs, err = lookupHost(ctx, name, s.Resolver, f)
	}
	if err == nil && len(addrs) > maxAnswer {
		err = fail("too many addresses", "lookup %s: %d addresses, limit is %d", name, len(addrs), maxAnswer)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return addrs, nil
}

func lookupHost(ctx context.Context, name string, server netip.AddrPort, f family) ([]netip.Addr, error) {
	d := dialer{server: server}
	addrs, err := d.resolver().LookupNetIP(ctx, f.network(), name)
	if err != nil {
		return nil, d.explain(err)
	}
	if server.IsValid() && !d.answered.Load() {
		return nil, fail("hosts file", "lookup %s: /etc/hosts has the name, which hides the response of resolver %s", name, server)
	}
	found := distinct(addrs)
	for _, a := range addrs {
		// LookupNetIP drops the zone of a link-local address, for example in /etc/hosts.
		if !slices.Contains(found, a.Unmap()) || a.Is6() && a.IsLinkLocalUnicast() {
			return nil, fail("unusable address", "lookup %s: cannot connect to address %s", name, a)
		}
	}
	return found, nil
}

// lookupTargets returns the addresses of all targets of the SRV records with the port of the
// service; 0 selects all records. It skips targets that are not found.
func lookupTargets(ctx context.Context, name string, s Service, f family) ([]netip.Addr, error) {
	d := dialer{server: s.Resolver}
	_, records, err := d.resolver().LookupSRV(ctx, "", "", name)
	if err != nil {
		return nil, d.explain(err)
	}
	var targets []string
	for _, srv := range records {
		// The target "." means that the service is not available (RFC 2782).
		if srv.Target != "." && (s.Port == 0 || srv.Port == s.Port) {
			targets = append(targets, srv.Target)
		}
	}
	if len(targets) > maxTargets {
		return nil, fail("too many targets", "lookup %s: %d targets, limit is %d", name, len(targets), maxTargets)
	}
	var all []netip.Addr
	for _, target := range targets {
		addrs, err := lookupHost(ctx, target, s.Resolver, f)
		if err != nil && reason(err) != notFound {
			return nil, err
		}
		all = append(all, addrs...)
	}
	if len(all) == 0 {
		return nil, fail(notFound, "lookup %s: no target has an address", name)
	}
	return distinct(all), nil
}

// isSRV reports whether the name is an SRV name (RFC 2782).
func isSRV(name string) bool {
	first, rest, _ := strings.Cut(name, ".")
	return strings.HasPrefix(first, "_") && strings.HasPrefix(rest, "_tcp.")
}

// distinct returns the unicast addresses without duplicates, sorted, with IPv4-mapped
// addresses as IPv4.
func distinct(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.WithZone("").Unmap(); a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

type result struct {
	addrs []netip.Addr
	err   error
	asked time.Duration // start of the lookup, since boot
}

// round is one lookup of a name in the families without a running lookup.
type round struct {
	asked, done, taken [len(families)]bool
	results            [len(families)]result
}

func (r *round) finish(f family, of result) { r.results[f], r.done[f] = of, true }

// take returns the result of a family, once. "Not found" is an empty result if the other
// family has addresses in the same round, otherwise a failure. Take returns false until
// this is decided.
func (r *round) take(f family) (result, bool) {
	if !r.done[f] || r.taken[f] {
		return result{}, false
	}
	of, other := r.results[f], f.other()
	if reason(of.err) == notFound {
		if r.asked[other] && !r.done[other] {
			return result{}, false
		}
		if len(r.results[other].addrs) > 0 {
			of = result{asked: of.asked}
		}
	}
	r.taken[f] = true
	return of, true
}

// Resolved is the result of Resolve.
type Resolved struct {
	// Addrs are the addresses of the name, sorted.
	Addrs []netip.Addr
	errs  [len(families)]error
}

// Err returns the error of the lookup in the address's family; nil if Addrs has all
// addresses of the family.
func (r *Resolved) Err(a netip.Addr) error { return r.errs[familyOf(a)] }

// Resolve looks up a name once, like Run. It returns an error if no address is found.
func Resolve(ctx context.Context, s Service) (Resolved, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	r := round{asked: [len(families)]bool{true, true}}
	var lookups sync.WaitGroup
	for _, f := range families {
		lookups.Go(func() {
			addrs, err := lookup(ctx, s, f)
			r.finish(f, result{addrs: addrs, err: err})
		})
	}
	lookups.Wait()
	var found Resolved
	for _, f := range families {
		of, _ := r.take(f)
		found.Addrs, found.errs[f] = append(found.Addrs, of.addrs...), of.err
	}
	if len(found.Addrs) == 0 {
		return Resolved{}, joined(found.errs[ipv4], found.errs[ipv6])
	}
	return found, nil
}

// joined combines the errors of both families in one line; nil without errors.
func joined(a, b error) error {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return fmt.Errorf("%w; %w", a, b)
}
