package sockdiag

import (
	"strconv"
	"strings"
)

// PortRange is an inclusive range of ports. The zero value is empty: port 0 is never in a
// range.
type PortRange struct{ First, Last uint16 }

// Ports returns a range for each port.
func Ports(ports ...uint16) []PortRange {
	var ranges []PortRange
	for _, p := range ports {
		ranges = append(ranges, PortRange{p, p})
	}
	return ranges
}

// Contains reports whether port is in the range.
func (r PortRange) Contains(port uint16) bool {
	return port != 0 && r.First <= port && port <= r.Last
}

// String returns "5432" or "5432-5440".
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return strconv.Itoa(int(r.First)) + "-" + strconv.Itoa(int(r.Last))
}

// FormatPorts returns the ranges as one argument of the command line: "5432,6000-6010", and
// "0" for every port.
func FormatPorts(ports []PortRange) string {
	if len(ports) == 0 {
		return "0"
	}
	texts := make([]string, len(ports))
	for i, r := range ports {
		texts[i] = r.String()
	}
	return strings.Join(texts, ",")
}
