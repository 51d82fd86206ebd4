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

// target is the destination of an action, checked against the policy.
type target struct {
	// namespace and pod are names of Kubernetes. Both are empty without node mode; an empty pod
	// means every pod of the namespace.
	namespace, pod string
	// destination and port are canonical text for records and keys; an empty port means
	// every port.
	destination, port string
	service           bool // destination is the name of a service
	// prefixes is empty only for a service without former addresses.
	prefixes []netip.Prefix
	ports    []uint16 // empty means every port
}

// includes reports whether the target has the address and the port.
func (t *target) includes(to netip.AddrPort) bool {
	return slices.ContainsFunc(t.prefixes, func(p netip.Prefix) bool { return p.Contains(to.Addr()) }) &&
		(len(t.ports) == 0 || slices.Contains(t.ports, to.Port()))
}

func (t *target) key() string {
	return t.namespace + " " + t.pod + " " + t.destination + " " + t.port
}

// refusal is a decision not to act on an alert.
type refusal struct {
	result string
	detail string // reason as text; may quote the alert
}

func refuse(result, format string, args ...any) *refusal {
	return &refusal{result: result, detail: fmt.Sprintf(format, args...)}
}

// exportedLabels are the names that Prometheus gives to labels of tcphup that collide with
// labels of the scrape target, unless the scrape has honor_labels: true. The alert's labels
// without the prefix then describe the target of the scrape, not a destination.
var exportedLabels = []string{"exported_destination", "exported_port", "exported_service"}

// target returns the target that the alert's labels select, or a refusal. Every prefix of
// the target is inside an allowed prefix and every port is allowed.
func (p *Policy) target(alert map[string]string, services []Service, names Names) (*target, *refusal) {
	if refusal := p.checkReplaced(alert, exportedLabels); refusal != nil {
		return nil, refusal
	}
	if p.Labels.Service != "" {
		return p.serviceTarget(alert, services, names)
	}
	label := cmp.Or(p.Labels.Destination, "destination")
	value, ok := alert[label]
	if !ok || value == "" {
		return nil, refuse(resultNoDestination, "label %s is missing", label)
	}
	prefix, err := parseDestination(value)
	if err != nil {
		return nil, refuse(resultBadDestination, "label %s: %v", label, err)
	}
	if !p.Allow.contains(prefix, names) {
		return nil, refuse(resultNotAllowed, "destination %s is not allowed by the policy", address.Format(prefix))
	}
	t := &target{destination: address.Format(prefix), prefixes: []netip.Prefix{prefix}, ports: p.Ports}
	label = cmp.Or(p.Labels.Port, "port")
	if value := alert[label]; value != "" {
		port, err := address.ParsePort(value)
		if err != nil {
			return nil, refuse(resultBadPort, "label %s: %v", label, err)
		}
		if !p.allowsPort(port) {
			return nil, refuse(resultNotAllowed, "port %d is not allowed by the policy", port)
		}
		t.port, t.ports = strconv.Itoa(int(port)), []uint16{port}
	}
	return t, nil
}

// checkReplaced refuses an alert with one of the exported labels, unless the policy names it.
func (p *Policy) checkReplaced(alert map[string]string, exported []string) *refusal {
	for _, label := range exported {
		if alert[label] != "" && !slices.Contains(p.Labels.all(), label) {
			return refuse(resultMalformed, "label %s: the scrape replaced the label of tcphup; "+
				"set honor_labels: true in its scrape configuration", label)
		}
	}
	return nil
}

// serviceTarget returns the former addresses of the service that the alert's label names.
func (p *Policy) serviceTarget(alert map[string]string, services []Service, names Names) (*target, *refusal) {
	value := alert[p.Labels.Service]
	if value == "" {
		return nil, refuse(resultNoDestination, "label %s is missing", p.Labels.Service)
	}
	i := slices.IndexFunc(services, func(s Service) bool { return s.Name == value })
	if i < 0 {
		return nil, refuse(resultBadDestination, "label %s: service %s is not configured",
			p.Labels.Service, text.Quote(value))
	}
	service := services[i]
	if !p.allowsPort(service.Port) {
		return nil, refuse(resultNotAllowed, "port %d is not allowed by the policy", service.Port)
	}
	t := &target{
		destination: service.Name, service: true, port: strconv.Itoa(int(service.Port)), ports: []uint16{service.Port},
	}
	if names == nil {
		return t, nil
	}
	current, former := names.Addresses(service.Name)
	if len(current) == 0 {
		return nil, refuse(resultError, "service %s is not resolved yet", service.Name)
	}
	for _, a := range former {
		prefix, err := address.FromAddr(a)
		if err != nil || slices.ContainsFunc(current, sameAs(prefix)) {
			continue // no flow has the invalid address, flows to a current one are correct
		}
		if !p.Allow.contains(prefix, names) {
			return nil, refuse(resultNotAllowed,
				"former address %s of service %s is not allowed by the policy", address.Format(prefix), service.Name)
		}
		t.prefixes = append(t.prefixes, prefix)
	}
	return t, nil
}

func (p *Policy) allowsPort(port uint16) bool {
	return len(p.Ports) == 0 || slices.Contains(p.Ports, port)
}

// contains reports whether the whole prefix is allowed.
func (a *Allow) contains(prefix netip.Prefix, names Names) bool {
	if slices.ContainsFunc(a.Prefixes, func(allowed netip.Prefix) bool { return contains(allowed, prefix) }) {
		return true
	}
	if !prefix.IsSingleIP() {
		return false
	}
	return a.AnyAddress || names != nil && slices.ContainsFunc(a.Names, func(name string) bool {
		current, former := names.Addresses(name)
		return slices.ContainsFunc(slices.Concat(current, former), sameAs(prefix))
	})
}

// sameAs returns a function that compares addresses with a single-address prefix.
func sameAs(prefix netip.Prefix) func(netip.Addr) bool {
	return func(addr netip.Addr) bool { return addr.WithZone("").Unmap() == prefix.Addr() }
}

// parseDestination parses an address or a prefix; /0 is an error.
func parseDestination(text string) (netip.Prefix, error) {
	prefix, err := address.Parse(text)
	if err == nil && prefix.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("%q covers every address; write an address or a longer prefix", text)
	}
	return prefix, err
}
