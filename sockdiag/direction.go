package sockdiag

import "fmt"

// Direction says which side opened a flow. The zero value is Outbound.
type Direction uint8

const (
	// Outbound flows were opened by the local side.
	Outbound Direction = iota
	// Inbound flows were accepted: their local address and port belong to a
	// listener of the same network namespace.
	Inbound
	// Either is both; it is a choice of a Selector, never a property of a flow.
	Either
)

// String returns "outbound", "inbound" or "either".
func (d Direction) String() string {
	return [...]string{"outbound", "inbound", "either"}[min(d, Either)]
}

// ParseDirection is the inverse of String.
func ParseDirection(s string) (Direction, error) {
	for d := Outbound; d <= Either; d++ {
		if s == d.String() {
			return d, nil
		}
	}
	return Outbound, fmt.Errorf("parse direction: %q is not outbound, inbound or either", s)
}

// Includes reports whether a flow of direction other has direction d.
func (d Direction) Includes(other Direction) bool { return d == Either || d == other }
