package sockdiag

import "fmt"

// Direction is the side that opened a flow. The zero value is Outbound.
type Direction uint8

const (
	// Outbound means opened by the local side.
	Outbound Direction = iota
	// Inbound means opened by the peer; see Table.Direction for the evidence.
	Inbound
	// Either selects both directions. No flow has it.
	Either
)

// String returns "outbound", "inbound" or "either".
func (d Direction) String() string {
	return [...]string{"outbound", "inbound", "either"}[min(d, Either)]
}

// ParseDirection parses the result of Direction.String.
func ParseDirection(s string) (Direction, error) {
	for d := Outbound; d <= Either; d++ {
		if s == d.String() {
			return d, nil
		}
	}
	return Outbound, fmt.Errorf("parse direction: %q is not outbound, inbound or either", s)
}

// Includes reports whether d selects flows of direction other.
func (d Direction) Includes(other Direction) bool { return d == Either || d == other }
