package services

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// maxTargets bounds the targets of an SRV answer that are looked up.
const maxTargets = 64

// lookupError is a failed lookup. Its reason is the same for all failures of a kind.
type lookupError struct {
	reason string
	err    error
}

func (e *lookupError) Error() string { return e.err.Error() }
func (e *lookupError) Unwrap() error { return e.err }

// fail returns an error with a reason.
func fail(reason, format string, args ...any) error {
	return &lookupError{reason, fmt.Errorf(format, args...)}
}

// notFound is the reason for an answer without an address of the family: the name does
// not exist, or it has no such record. The resolver does not distinguish these.
const notFound = "not found"

// reason returns the reason for a failed lookup; "" when err is nil.
func reason(err error) string {
	var lookup *lookupError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &lookup):
		return lookup.reason
	default:
		return err.Error()
	}
}

// lookup returns the addresses of a service in one family, distinct and sorted. The
// system's resolver settings apply: /etc/hosts, /etc/resolv.conf and the order in
// /etc/nsswitch.conf.
func lookup(ctx context.Context, s Service, f family) (addrs []netip.Addr, err error) {
	name := canonical(s.Name)
	if isSRV(name) {
		addrs, err = lookupTargets(ctx, name, s.Port, f)
	} else {
		addrs, err = lookupHost(ctx, name, f)
	}
	if err == nil && len(addrs) > maxAnswer {
		err = fail("too many addresses", "lookup %s: %d addresses, limit is %d", name, len(addrs), maxAnswer)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return addrs, nil
}

func lookupHost(ctx context.Context, name string, f family) ([]netip.Addr, error) {
	var d dialer
	addrs, err := d.resolver().LookupNetIP(ctx, f.network(), name)
	if err != nil {
		return nil, d.explain(err)
	}
	found := distinct(addrs)
	for _, a := range addrs {
		// An address that needs a zone has lost it here, as in a line of /etc/hosts.
		if !slices.Contains(found, a.Unmap()) || a.Is6() && a.IsLinkLocalUnicast() {
			return nil, fail("unusable address", "lookup %s: %s is not an address to connect to", name, a)
		}
	}
	return found, nil
}

// lookupTargets returns the addresses of all targets of SRV records with the port; 0
// selects all records. Targets that are not found are skipped.
func lookupTargets(ctx context.Context, name string, port uint16, f family) ([]netip.Addr, error) {
	var d dialer
	_, records, err := d.resolver().LookupSRV(ctx, "", "", name)
	if err != nil {
		return nil, d.explain(err)
	}
	var targets []string
	for _, srv := range records {
		// The target "." means that there is no such service.
		if srv.Target != "." && (port == 0 || srv.Port == port) {
			targets = append(targets, srv.Target)
		}
	}
	if len(targets) > maxTargets {
		return nil, fail("too many targets", "lookup %s: %d targets, limit is %d", name, len(targets), maxTargets)
	}
	var all []netip.Addr
	for _, target := range targets {
		addrs, err := lookupHost(ctx, target, f)
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

// isSRV reports whether the name is that of SRV records (RFC 2782).
func isSRV(name string) bool {
	first, rest, _ := strings.Cut(name, ".")
	return strings.HasPrefix(first, "_") && strings.HasPrefix(rest, "_tcp.")
}

// distinct returns the addresses that a flow can lead to, each once, sorted and
// never IPv4-mapped.
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

// result is the result of the lookup of one family.
type result struct {
	addrs []netip.Addr
	err   error
}

// round is one lookup of a name, in each family that was idle when it began.
type round struct {
	asked, done, taken [len(families)]bool
	results            [len(families)]result
}

// finish stores the result of a family.
func (r *round) finish(f family, of result) { r.results[f], r.done[f] = of, true }

// take returns the result of a family, once. "Not found" means that the family has no
// addresses if the other family has some in the same round, and a failure otherwise;
// take returns false until the other family is done.
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
			of = result{}
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

// Err returns why the lookup of the address's family failed; nil if Addrs has all
// addresses of that family.
func (r *Resolved) Err(a netip.Addr) error { return r.errs[familyOf(a)] }

// Resolve looks a name up once, as Run does. It fails if no address is found.
func Resolve(ctx context.Context, s Service) (Resolved, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	r := round{asked: [len(families)]bool{true, true}}
	var lookups sync.WaitGroup
	for _, f := range families {
		lookups.Go(func() {
			addrs, err := lookup(ctx, s, f)
			r.finish(f, result{addrs, err})
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

// joined returns the errors of both families as one in one line; nil if there is none.
func joined(a, b error) error {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	default:
		return fmt.Errorf("%w; %w", a, b)
	}
}
