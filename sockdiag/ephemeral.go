package sockdiag

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ephemeralPortsFile has the setting of the reader's network namespace.
const ephemeralPortsFile = "/proc/sys/net/ipv4/ip_local_port_range"

// EphemeralPorts returns the range of automatically assigned local ports, for IPv4 and
// IPv6, in the network namespace of the calling thread (net.ipv4.ip_local_port_range).
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

// parsePortRange parses two ports separated by white space.
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
