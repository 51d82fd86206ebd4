package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// kind is how an application connects.
type kind string

const (
	ipv4   kind = "IPv4"
	ipv6   kind = "IPv6"
	mapped kind = "IPv4-mapped" // an IPv6 socket that talks IPv4
	mptcp  kind = "MPTCP"
)

// destination is where applications keep connections. One with a policy is a victim:
// alerts name it, and connections to it may be hung up as the policy says. One
// without is a bystander: no connection to it may ever end.
type destination struct {
	kind    kind
	address netip.AddrPort
	policy  string
	// from, if it is valid, is the local address of the connections.
	from netip.Addr
	// The policy asks for this evidence.
	idle        time.Duration
	beforeAlert bool
	// formerOnly: the policy reaches it only while it is a former address of the
	// service.
	formerOnly bool
}

const (
	victimPort  = 8080
	serviceName = "api.soak"
	// settle is how long an address must be gone from the service to be former.
	settle = 2 * time.Second
)

// destinations are the same in every process.
var destinations = []destination{
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.1.1:8080"), policy: "plain"},
	{kind: ipv6, address: netip.MustParseAddrPort("[fd00::1:1]:8080"), policy: "before-alert", beforeAlert: true},
	{kind: mapped, address: netip.MustParseAddrPort("127.0.2.1:8080"), policy: "destroy"},
	{kind: mptcp, address: netip.MustParseAddrPort("127.0.3.1:8080"), policy: "plain"},
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.4.1:8080"), policy: "idle", idle: time.Second},
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.6.1:8080"), policy: "failover", formerOnly: true},
	{kind: mapped, address: netip.MustParseAddrPort("127.0.6.2:8080"), policy: "failover", formerOnly: true},

	// Its accepted side has the address of a victim as its peer.
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.1.2:8080"), from: netip.MustParseAddr("127.0.1.1")},
	{kind: ipv6, address: netip.MustParseAddrPort("[fd00::1:2]:8080"), from: netip.MustParseAddr("fd00::1:1")},
	{kind: mapped, address: netip.MustParseAddrPort("127.0.2.2:8080")},
	{kind: mptcp, address: netip.MustParseAddrPort("127.0.3.2:8080")},
	// A port of a victim that its policy does not have.
	{kind: ipv4, address: netip.MustParseAddrPort("127.0.1.1:8081")},
}

// plainVictim is the index of one whose policy asks for no evidence.
const plainVictim = 0

// Bystanders that alerts name all the same: the policies forbid it, or only plan.
const (
	forbiddenAddress = "127.0.3.2"
	shadowAddress    = "127.0.2.2"
)

func (d *destination) victim() bool   { return d.policy != "" }
func (d *destination) String() string { return fmt.Sprintf("%v (%s)", d.address, d.kind) }

// serviceAddresses are the two between which the service moves.
func serviceAddresses() (addresses []netip.Addr) {
	for _, d := range destinations {
		if d.formerOnly {
			addresses = append(addresses, d.address.Addr())
		}
	}
	return addresses
}

// addresses6 are those that the loopback device does not have by itself.
func addresses6() (addresses []string) {
	for _, d := range destinations {
		if d.address.Addr().Is6() {
			addresses = append(addresses, d.address.Addr().String())
		}
	}
	return addresses
}

// configuration is a file for tcphup. Each version means the same for every alert
// that is sent, and differs all the same.
func configuration(version int) string {
	text := fmt.Sprintf(`# version %d
defaults:
  limits: {flows: 2000, rate: 2000, cooldown: 0s, breaker: {actions: 1000000, destinations: 1000000, window: 1m}}
  linger: 1s
services:
  - {name: %s, port: %d, settle: %s, interval: 1s}
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
  - {name: failover, match: ['alertname="failover"'], allow: [%s], labels: {service: service}}
  - {name: forbidden, match: ['alertname="forbidden"'], allow: [127.0.0.0/8]}
  - {name: shadow, match: ['alertname="shadow"'], allow: [127.0.0.0/8], shadow: true}
`, version, serviceName, victimPort, settle, serviceName)
	if version%2 == 1 {
		text += "  - {name: other, match: ['alertname=\"other\"'], allow: [192.0.2.0/24]}\n"
	}
	return text
}

// brokenConfiguration has no guard left in what can be read of it.
func brokenConfiguration() string {
	text := configuration(0)
	for _, guard := range []string{"  - 127.0.3.2\n", "  - fd00::1:2\n", ", shadow: true", ", ports: [8080]"} {
		text = strings.ReplaceAll(text, guard, "")
	}
	text = strings.Replace(text, "never:\n", "", 1)
	return text + "  - {name: broken, match: ['alertname=\"broken\"'], allow: [127.0.0.0/8], evidence: {idel: 1s}}\n"
}
