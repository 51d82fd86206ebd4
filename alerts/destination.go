package alerts

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"tcphup/internal/address"
	"tcphup/internal/text"
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
		return nil, refuse(resultBadDestination, "label %s: %v", label, err)
	}
	if !p.Allow.contains(prefix, names) {
		return nil, refuse(resultNotAllowed, "destination %s is outside of what the policy allows", address.Format(prefix))
	}
	t := &target{destination: address.Format(prefix), prefixes: []netip.Prefix{prefix}, ports: p.Ports}
	label = cmp.Or(p.Labels.Port, "port")
	if value := alert[label]; value != "" {
		port, err := address.ParsePort(value)
		if err != nil {
			return nil, refuse(resultBadPort, "label %s: %v", label, err)
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
			p.Labels.Service, text.Quote(value))
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
		prefix, err := address.FromAddr(a)
		if err != nil || slices.ContainsFunc(current, sameAs(prefix)) {
			continue // nothing goes to the one, what goes to the other is in the right place
		}
		if !p.Allow.contains(prefix, names) {
			return nil, refuse(resultNotAllowed,
				"address %s of service %s is outside of what the policy allows", address.Format(prefix), service.Name)
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

// parseDestination parses an address or a prefix, /0 excepted.
func parseDestination(text string) (netip.Prefix, error) {
	prefix, err := address.Parse(text)
	if err == nil && prefix.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("%q covers every address: write an address or a longer prefix", text)
	}
	return prefix, err
}
