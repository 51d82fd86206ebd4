package services

import "net/netip"

// family is an address family. Lookups, schedules and failures are per family.
type family int

const (
	ipv4 family = iota
	ipv6
)

// families are all address families, the indexes of arrays per family.
var families = [...]family{ipv4, ipv6}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// other returns the other family.
func (f family) other() family { return 1 - f }

// network returns the name of the family in package net.
func (f family) network() string { return [...]string{"ip4", "ip6"}[f] }

// String returns the DNS record type of the family.
func (f family) String() string { return [...]string{"A", "AAAA"}[f] }
