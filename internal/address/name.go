package address

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"tcphup/internal/text"
)

// nameForm requires a letter at the start of the last label. No address matches it.
var nameForm = regexp.MustCompile(`(?i)^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?\.?$`)

// ParseName validates a host name and returns it in lower case.
func ParseName(s string) (string, error) {
	if len(s) > 253 || !nameForm.MatchString(s) {
		return "", fmt.Errorf("%s is not a host name: write one that DNS resolves, such as db.internal", text.Quote(s))
	}
	return strings.ToLower(s), nil
}

// ParseHost parses a name, an address or a prefix. It returns either a name or a valid
// prefix.
func ParseHost(s string) (prefix netip.Prefix, name string, err error) {
	if name, err = ParseName(s); err == nil {
		return prefix, name, nil
	}
	if prefix, err = parse(s); errors.Is(err, ErrSyntax) {
		err = errors.New("is not an address, a prefix or a name: write one such as 10.20.0.0/16, 2001:db8::5 or db.internal")
	}
	prefix, err = quoted(s, prefix, err)
	return prefix, "", err
}

// ParseService parses NAME or NAME:PORT. Port 0 means no port.
func ParseService(s string) (name string, port uint16, err error) {
	name, number, hasPort := strings.Cut(s, ":")
	if strings.Contains(number, ":") {
		return "", 0, fmt.Errorf("%s is not a name with a port: write NAME:PORT", text.Quote(s))
	}
	if hasPort {
		if port, err = ParsePort(number); err != nil {
			return "", 0, fmt.Errorf("%s has no port from 1 to 65535 after the colon", text.Quote(s))
		}
	}
	name, err = ParseName(name)
	if err != nil {
		return "", 0, err
	}
	return name, port, nil
}
