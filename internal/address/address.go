// Package address parses addresses, prefixes, host names and ports from the command line,
// the configuration and alert labels. The same rules apply to all inputs:
//
//   - An IPv4-mapped IPv6 address is IPv4: ::ffff:10.0.0.5 is 10.0.0.5.
//   - IPv6 may be in brackets: [2001:db8::5].
//   - Host bits after the prefix length, zones, the unspecified address and multicast are
//     errors.
//
// Every error quotes the input and suggests a valid form.
package address

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"tcphup/internal/text"
)

// mappedBits is the length of ::ffff:0:0/96, the IPv4-mapped part of IPv6.
const mappedBits = 96

// ErrSyntax matches errors about text that is neither an address nor a prefix, such as a
// host name.
var ErrSyntax = errors.New("not an address or prefix")

// Parse parses an address or a prefix. Prefix length 0 is valid.
func Parse(s string) (netip.Prefix, error) {
	prefix, err := parse(s)
	if errors.Is(err, ErrSyntax) {
		err = fmt.Errorf("is %w: write one such as 10.0.0.5, 10.20.0.0/16 or 2001:db8::5", err)
	}
	return quoted(s, prefix, err)
}

// ParseAddr parses a single address.
func ParseAddr(s string) (netip.Addr, error) {
	prefix, err := Parse(s)
	if err == nil && !prefix.IsSingleIP() {
		err = fmt.Errorf("%s is a prefix: write one address", text.Quote(s))
	}
	return prefix.Addr(), err
}

// ParseEndpoint parses an address or a prefix with an optional port. IPv6 needs brackets
// before a port. Port 0 means no port.
func ParseEndpoint(s string) (netip.Prefix, uint16, error) {
	prefix, err := parse(s)
	var port uint16
	if colon := strings.LastIndexByte(s, ':'); colon >= 0 && errors.Is(err, ErrSyntax) {
		host := s[:colon]
		if strings.HasPrefix(host, "[") || !strings.Contains(host, ":") {
			prefix, err = parse(host)
		}
		if err == nil {
			if port, err = ParsePort(s[colon+1:]); err != nil {
				err = errors.New("has no port from 1 to 65535 after the last colon")
			}
		}
	}
	if errors.Is(err, ErrSyntax) {
		err = fmt.Errorf("is %w with or without a port: write one such as 10.0.0.10:53, 10.0.0.0/24 or [2001:db8::/32]:53", err)
	}
	prefix, err = quoted(s, prefix, err)
	return prefix, port, err
}

// FromAddr returns the prefix of a single address, by the rules of Parse.
func FromAddr(addr netip.Addr) (netip.Prefix, error) {
	prefix, err := fromAddr(addr)
	return quoted(addr.String(), prefix, err)
}

// FromPrefix returns the canonical form of a prefix, by the rules of Parse.
func FromPrefix(prefix netip.Prefix) (netip.Prefix, error) {
	if !prefix.IsValid() {
		return netip.Prefix{}, errors.New("not a prefix")
	}
	canonical, err := fromPrefix(prefix)
	return quoted(prefix.String(), canonical, err)
}

// quoted prepends the quoted input to an error, if any.
func quoted(s string, prefix netip.Prefix, err error) (netip.Prefix, error) {
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s %w", text.Quote(s), err)
	}
	return prefix, nil
}

func parse(s string) (netip.Prefix, error) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if s, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(s, ":") {
			return netip.Prefix{}, ErrSyntax
		}
	}
	// netip.ParseAddr accepts any text as a zone, including "/64".
	if prefix, err := netip.ParsePrefix(s); err == nil {
		return fromPrefix(prefix)
	}
	addr, err := netip.ParseAddr(s)
	if err != nil || strings.Contains(s, "/") {
		return netip.Prefix{}, ErrSyntax
	}
	return fromAddr(addr)
}

func fromAddr(addr netip.Addr) (netip.Prefix, error) {
	zone, addr := addr.Zone(), addr.WithZone("").Unmap()
	switch {
	case !addr.IsValid():
		return netip.Prefix{}, errors.New("is not an address")
	case zone != "":
		return netip.Prefix{}, fmt.Errorf("has a zone: write %s, which means this address on every interface", addr)
	case addr.IsUnspecified():
		return netip.Prefix{}, errors.New("is the unspecified address, not a TCP destination: write a prefix to match many addresses")
	}
	return unicast(netip.PrefixFrom(addr, addr.BitLen()))
}

func fromPrefix(prefix netip.Prefix) (netip.Prefix, error) {
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < mappedBits {
			return netip.Prefix{}, errors.New("reaches beyond the IPv4-mapped addresses: write an IPv4 prefix")
		}
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mappedBits)
	}
	switch {
	case prefix.IsSingleIP():
		return fromAddr(prefix.Addr())
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("is a prefix with bits set after its length: write %s, or %s for a single address", prefix.Masked(), prefix.Addr())
	}
	return unicast(prefix)
}

func unicast(prefix netip.Prefix) (netip.Prefix, error) {
	if prefix.Addr().IsMulticast() {
		return netip.Prefix{}, errors.New("is multicast, not a TCP destination: write a unicast address or prefix")
	}
	return prefix, nil
}

// ParsePort parses a port from 1 to 65535 in decimal digits, without leading zeros.
func ParsePort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 || s != strconv.FormatUint(port, 10) {
		return 0, fmt.Errorf("%s is not a port number from 1 to 65535", text.Quote(s))
	}
	return uint16(port), nil
}

// Format returns a prefix as text, without the length for a single address.
func Format(prefix netip.Prefix) string {
	if prefix.IsSingleIP() {
		return prefix.Addr().String()
	}
	return prefix.String()
}
