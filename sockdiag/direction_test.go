package sockdiag

import "testing"

func TestParseDirection(t *testing.T) {
	for _, want := range []Direction{Outbound, Inbound, Either} {
		if got, err := ParseDirection(want.String()); got != want || err != nil {
			t.Errorf("%q is %v, %v", want.String(), got, err)
		}
	}
	for _, s := range []string{"", "Inbound", "both", "outbound "} {
		if d, err := ParseDirection(s); err == nil {
			t.Errorf("%q is %v, want an error", s, d)
		}
	}
}
