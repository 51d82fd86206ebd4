package services

import (
	"fmt"
	"testing"
)

// "Not found" is an empty result if the other family has addresses in the same round, in
// any order; otherwise it is a failure.
func TestRound(t *testing.T) {
	missing, broken := result{err: fail(notFound, "no such host")}, result{err: fail("timeout", "timeout")}
	some := result{addrs: addrs(t, "10.0.0.1")}
	tests := []struct {
		name       string
		result     result // of IPv6
		other      result
		asked      bool
		wantFailed bool
	}{
		{name: "found", result: result{addrs: addrs(t, "fd00::1")}, other: some, asked: true},
		{name: "not found, other found", result: missing, other: some, asked: true},
		{name: "not found, other not found", result: missing, other: missing, asked: true, wantFailed: true},
		{name: "not found, other failed", result: missing, other: broken, asked: true, wantFailed: true},
		{name: "not found, other not asked", result: missing, wantFailed: true},
		{name: "failed, other found", result: broken, other: some, asked: true, wantFailed: true},
	}
	for _, tt := range tests {
		for _, first := range families {
			t.Run(fmt.Sprintf("%s/%s first", tt.name, first), func(t *testing.T) {
				r := round{asked: [len(families)]bool{tt.asked, true}}
				var got []result
				for _, f := range []family{first, first.other()} {
					if !r.asked[f] {
						continue
					}
					r.finish(f, [...]result{tt.other, tt.result}[f])
					if of, ok := r.take(ipv6); ok {
						got = append(got, of)
					}
				}
				if len(got) != 1 || (got[0].err != nil) != tt.wantFailed {
					t.Errorf("results: %+v", got)
				}
			})
		}
	}
}
