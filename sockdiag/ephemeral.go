package sockdiag

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// PortRange is a range of ports, both ends included. The zero value holds none:
// port 0 is not a port.
type PortRange struct{ First, Last uint16 }

// Contains reports whether the range holds the port.
func (r PortRange) Contains(port uint16) bool {
	return port != 0 && r.First <= port && port <= r.Last
}

// ephemeralPortsFile shows the setting of the reader's own network namespace.
const ephemeralPortsFile = "/proc/sys/net/ipv4/ip_local_port_range"

// EphemeralPorts returns the range that local ports are taken from when a flow is
// opened without choosing one, of both address families.
func EphemeralPorts() (PortRange, error) {
	b, err := os.ReadFile(ephemeralPortsFile)
	if err != nil {
		return PortRange{}, fmt.Errorf("read ephemeral ports: %w", err)
	}
	r, err := parsePortRange(string(b))
	if err != nil {
		return PortRange{}, fmt.Errorf("read ephemeral ports: %s: %w", ephemeralPortsFile, err)
	}
	return r, nil
}

// parsePortRange reads two ports with space between them.
func parsePortRange(text string) (PortRange, error) {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return PortRange{}, fmt.Errorf("%q is not two ports", text)
	}
	first, firstErr := strconv.ParseUint(fields[0], 10, 16)
	last, lastErr := strconv.ParseUint(fields[1], 10, 16)
	if err := errors.Join(firstErr, lastErr); err != nil {
		return PortRange{}, fmt.Errorf("%q is not two ports: %w", text, err)
	}
	return PortRange{First: uint16(first), Last: uint16(last)}, nil
}
