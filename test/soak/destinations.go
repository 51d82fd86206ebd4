package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// kind is the kind of socket of a connection.
type kind string

const (
	ipv4   kind = "IPv4"
	ipv6   kind = "IPv6"
	mapped kind = "IPv4-mapped" // IPv6 socket, IPv4 addresses
	mptcp  kind = "MPTCP"
)

// destination is an endpoint of the applications. With a policy, it is a target: alerts name
// it, and the policy decides which of its connections end. Without, it is a bystander: no
// connection to it may end.
type destination struct {
	kind    kind
	address netip.AddrPort
	policy  string
	// from is the local address of the connections; the zero value: chosen by the kernel.
	from netip.Addr
	// Evidence that the policy requires.
	idle        time.Duration
	beforeAlert bool
	// formerOnly: the policy applies only while this is a former address of the service.
	formerOnly bool
	// swapped: the address of one of two names that exchange their addresses.
	swapped bool
}

const (
	targetPort  = 8080
	serviceName = "api.soak"
	// settle is how long an address must be absent from the service to count as former.
	settle = 2 * time.Second
)

// destinations are identical in all processes, which refer to them by index.
var destinations = []destination{
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.1.1:8080"), policy: "plain"},
	{kind: ipv6, address: netip.MustParseAddrPort("[fd00::1:1]:8080"), policy: "before-alert", beforeAlert: true},
	{kind: mapped, address: netip.MustParseAddrPort("127.0.2.1:8080"), policy: "destroy"},
	{kind: mptcp, address: netip.MustParseAddrPort("127.0.3.1:8080"), policy: "plain"},
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.4.1:8080"), policy: "idle", idle: time.Second},
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.6.1:8080"), policy: "failover", formerOnly: true},
	{kind: mapped, address: netip.MustParseAddrPort("127.0.6.2:8080"), policy: "failover", formerOnly: true},
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.7.1:8080"), policy: "swap", swapped: true},
	{kind: mapped, address: netip.MustParseAddrPort("127.0.7.2:8080"), policy: "swap", swapped: true},

	// The peer address of the accepted flow is the address of a target.
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.1.2:8080"), from: netip.MustParseAddr("127.0.1.1")},
	{kind: ipv6, address: netip.MustParseAddrPort("[fd00::1:2]:8080"), from: netip.MustParseAddr("fd00::1:1")},
	{kind: mapped, address: netip.MustParseAddrPort("127.0.2.2:8080")},
	{kind: mptcp, address: netip.MustParseAddrPort("127.0.3.2:8080")},
	// A port of a target that its policy does not allow.
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.1.1:8081")},
}

// plainTarget is the index of a target whose policy requires no evidence.
const plainTarget = 0

// Bystanders named by harmless alerts: on the never list, and in a shadow policy.
const (
	forbiddenAddress = "127.0.3.2"
	shadowAddress    = "127.0.2.2"
)

// swappedNames are two services that exchange their addresses.
var swappedNames = [2]string{"writer.soak", "reader.soak"}

// swappedDestinations returns the indices of the two addresses of swappedNames.
func swappedDestinations() (indices []int) {
	for i := range destinations {
		if destinations[i].swapped {
			indices = append(indices, i)
		}
	}
	return indices
}

func (d *destination) target() bool   { return d.policy != "" }
func (d *destination) String() string { return fmt.Sprintf("%v (%s)", d.address, d.kind) }

// serviceAddresses returns the two addresses between which the service moves.
func serviceAddresses() (addresses []netip.Addr) {
	for _, d := range destinations {
		if d.formerOnly {
			addresses = append(addresses, d.address.Addr())
		}
	}
	return addresses
}

// addresses6 returns the IPv6 addresses to add to the loopback device.
func addresses6() (addresses []string) {
	for _, d := range destinations {
		if d.address.Addr().Is6() {
			addresses = append(addresses, d.address.Addr().String())
		}
	}
	return addresses
}

// configuration returns a version of the configuration file. All versions differ but have
// the same effect on the alerts of the soak.
func configuration(version int, places []*place) string {
	namespaces := ""
	if names := namespacesOf(places); len(names) > 0 {
		namespaces = ", namespaces: [" + strings.Join(names, ", ") + "]"
	}
	text := fmt.Sprintf(`# version %[1]d
defaults:
  limits: {flows: 2000, rate: 2000, cooldown: 0s, breaker: {actions: 1000000, destinations: 1000000, window: 1m}}
  linger: 1s
services:
  - {name: %[2]s, port: %[3]d, settle: %[4]s, interval: 1s}
  - {name: %[5]s, port: %[3]d, settle: %[4]s, interval: 1s}
  - {name: %[6]s, port: %[3]d, settle: %[4]s, interval: 1s}
never:
  - 127.0.3.2
  - fd00::1:2
policies:
  - {name: plain, match: ['alertname="plain"'], allow: [127.0.1.1, 127.0.3.1], ports: [8080]}
  - name: before-alert
    match: ['alertname="before-alert"']
    allow: ["fd00::1:0/112"]
    evidence: {established_before_alert: true}
    drain: {quiet: 50ms, deadline: 500ms}
  - {name: destroy, match: ['alertname="destroy"'], allow: [127.0.2.0/24], ports: [8080], method: destroy}
  - {name: idle, match: ['alertname="idle"'], allow: [127.0.4.1], evidence: {idle: 1s}}
  - {name: failover, match: ['alertname="failover"'], allow: [%[2]s], labels: {service: service}}
  - {name: swap, match: ['alertname="swap"'], allow: [%[5]s, %[6]s], labels: {service: service}}
  - {name: forbidden, match: ['alertname="forbidden"'], allow: [127.0.0.0/8]}
  - {name: shadow, match: ['alertname="shadow"'], allow: [127.0.0.0/8], shadow: true}
`, version, serviceName, targetPort, settle, swappedNames[0], swappedNames[1])
	if version%2 == 1 {
		text += "  - {name: other, match: ['alertname=\"other\"'], allow: [192.0.2.0/24]}\n"
	}
	// In node mode every policy lists namespaces.
	text = strings.ReplaceAll(text, "\"'],", "\"']"+namespaces+",")
	return strings.ReplaceAll(text, "\"']\n", "\"']"+strings.Replace(namespaces, ", ", "\n    ", 1)+"\n")
}

// brokenConfiguration returns an invalid file whose valid part lacks all guards: applying
// any of it would hang up bystanders.
func brokenConfiguration(places []*place) string {
	text := configuration(0, places)
	for _, guard := range []string{"  - 127.0.3.2\n", "  - fd00::1:2\n", ", shadow: true", ", ports: [8080]"} {
		text = strings.ReplaceAll(text, guard, "")
	}
	text = strings.Replace(text, "never:\n", "", 1)
	return text + "  - {name: broken, match: ['alertname=\"broken\"'], allow: [127.0.0.0/8], evidence: {idel: 1s}}\n"
}

// namespacesOf returns the Kubernetes namespaces of places.
func namespacesOf(places []*place) (names []string) {
	for _, p := range places {
		if p.namespace != "" && !slices.Contains(names, p.namespace) {
			names = append(names, p.namespace)
		}
	}
	return names
}
