package alerts

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// target is what an alert asks to hang up, checked against its policy.
type target struct {
	// destination and port are canonical and are how the target is called in
	// records and where it is remembered; port is empty when every port is meant.
	destination, port string
	// prefixes is empty only for a service that has left nothing behind.
	prefixes []netip.Prefix
	ports    []uint16 // none means every port
}

// key is equal for targets that are the same thing.
func (t *target) key() string { return t.destination + " " + t.port }

// refusal is a decision not to act on an alert.
type refusal struct {
	result string // one of the results that refuse
	detail string // for people; may quote the alert
}

func refuse(result, format string, args ...any) *refusal {
	return &refusal{result: result, detail: fmt.Sprintf(format, args...)}
}

// target returns what the alert's labels name. It is never wider than what the
// policy allows: every prefix lies inside an allowed one, every port is among the
// allowed ones.
func (p *Policy) target(alert map[string]string, services []Service, names Names) (*target, *refusal) {
	if p.Labels.Service != "" {
		return p.serviceTarget(alert, services, names)
	}
	label := cmp.Or(p.Labels.Destination, "destination")
	value, ok := alert[label]
	if !ok || value == "" {
		return nil, refuse(resultNoDestination, "the alert has no label %s", label)
	}
	prefix, err := parseDestination(value)
	if err != nil {
		return nil, refuse(resultBadDestination, "label %s is %s: %v", label, quote(value), err)
	}
	if !p.Allow.contains(prefix, names) {
		return nil, refuse(resultNotAllowed, "destination %s is outside of what the policy allows", display(prefix))
	}
	t := &target{destination: display(prefix), prefixes: []netip.Prefix{prefix}, ports: p.Ports}
	label = cmp.Or(p.Labels.Port, "port")
	if value := alert[label]; value != "" {
		port, err := parsePort(value)
		if err != nil {
			return nil, refuse(resultBadPort, "label %s is %s: %v", label, quote(value), err)
		}
		if !p.allowsPort(port) {
			return nil, refuse(resultNotAllowed, "port %d is not among those that the policy allows", port)
		}
		t.port, t.ports = strconv.Itoa(int(port)), []uint16{port}
	}
	return t, nil
}

func (p *Policy) serviceTarget(alert map[string]string, services []Service, names Names) (*target, *refusal) {
	value := alert[p.Labels.Service]
	if value == "" {
		return nil, refuse(resultNoDestination, "the alert has no label %s", p.Labels.Service)
	}
	i := slices.IndexFunc(services, func(s Service) bool { return s.Name == value })
	if i < 0 {
		return nil, refuse(resultBadDestination, "label %s is %s: not a service of the configuration",
			p.Labels.Service, quote(value))
	}
	service := services[i]
	if !p.allowsPort(service.Port) {
		return nil, refuse(resultNotAllowed, "port %d is not among those that the policy allows", service.Port)
	}
	t := &target{
		destination: service.Name, port: strconv.Itoa(int(service.Port)), ports: []uint16{service.Port},
	}
	if names == nil {
		return t, nil
	}
	current, former := names.Addresses(service.Name)
	if len(current) == 0 {
		return nil, refuse(resultError, "where service %s is now is not known", service.Name)
	}
	// What goes to an address that another service has on this port may be of that one.
	for _, other := range services {
		if other.Port == service.Port && other.Name != service.Name {
			shared, _ := names.Addresses(other.Name)
			current = append(current, shared...)
		}
	}
	for _, a := range former {
		prefix, err := hostPrefix(a)
		if err != nil || slices.ContainsFunc(current, sameAs(prefix)) {
			continue // nothing goes to the one, what goes to the other is in the right place
		}
		if !p.Allow.contains(prefix, names) {
			return nil, refuse(resultNotAllowed,
				"address %s of service %s is outside of what the policy allows", display(prefix), service.Name)
		}
		t.prefixes = append(t.prefixes, prefix)
	}
	return t, nil
}

func (p *Policy) allowsPort(port uint16) bool {
	return len(p.Ports) == 0 || slices.Contains(p.Ports, port)
}

// contains reports whether all of prefix is allowed.
func (a *Allow) contains(prefix netip.Prefix, names Names) bool {
	for _, allowed := range a.Prefixes {
		if contains(allowed, prefix) {
			return true
		}
	}
	if !prefix.IsSingleIP() {
		return false
	}
	if a.AnyAddress {
		return true
	}
	if names == nil {
		return false
	}
	same := sameAs(prefix)
	for _, name := range a.Names {
		current, former := names.Addresses(name)
		if slices.ContainsFunc(current, same) || slices.ContainsFunc(former, same) {
			return true
		}
	}
	return false
}

// sameAs returns whether an address is the only one of prefix.
func sameAs(prefix netip.Prefix) func(netip.Addr) bool {
	return func(addr netip.Addr) bool { return addr.WithZone("").Unmap() == prefix.Addr() }
}

// parseDestination reads an address or a prefix. IPv6 may be in any notation and
// in brackets; IPv4 written as IPv6 becomes IPv4. It refuses what no flow can go
// to, what is not exact, and /0.
func parseDestination(text string) (netip.Prefix, error) {
	var none netip.Prefix
	if inner, ok := strings.CutPrefix(text, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if !ok || !strings.Contains(inner, ":") {
			return none, fmt.Errorf("brackets belong around an IPv6 address")
		}
		text = inner
	}
	if !strings.Contains(text, "/") {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return none, fmt.Errorf("not an address or prefix")
		}
		return hostPrefix(addr)
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return none, fmt.Errorf("not an address or prefix")
	}
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < 96 {
			return none, fmt.Errorf("a prefix of IPv4 written as IPv6 has at least 96 bits")
		}
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	switch {
	case prefix.IsSingleIP():
		return hostPrefix(prefix.Addr())
	case prefix.Bits() == 0:
		return none, fmt.Errorf("a prefix of no bits is every address there is")
	case prefix != prefix.Masked():
		return none, fmt.Errorf("bits are set after the prefix; that would be %s", prefix.Masked())
	case prefix.Addr().IsMulticast():
		return none, fmt.Errorf("no connection goes to a multicast address")
	}
	return prefix, nil
}

// hostPrefix returns the prefix of one address that a flow can go to.
func hostPrefix(addr netip.Addr) (netip.Prefix, error) {
	zone := addr.Zone() // Unmap would drop it
	addr = addr.Unmap()
	switch {
	case zone != "":
		return netip.Prefix{}, fmt.Errorf("an address with a zone means something else on every host")
	case addr.IsUnspecified():
		return netip.Prefix{}, fmt.Errorf("no connection goes to the unspecified address")
	case addr.IsMulticast():
		return netip.Prefix{}, fmt.Errorf("no connection goes to a multicast address")
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// parsePort reads a port from 1 to 65535, in decimal digits and no other way.
func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || text != strconv.FormatUint(port, 10) {
		return 0, fmt.Errorf("not a port number from 1 to 65535")
	}
	return uint16(port), nil
}

// display is an address without its length, or a prefix.
func display(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// quote makes text from an alert fit for one line of a log or an answer.
func quote(text string) string {
	const limit = 80
	if len(text) > limit {
		return strconv.QuoteToASCII(text[:limit]) + " and more"
	}
	return strconv.QuoteToASCII(text)
}
