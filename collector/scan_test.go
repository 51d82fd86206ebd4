package collector

import (
	"errors"
	"testing"
)

// Without MPTCP sockets the MPTCP dump, and its errors, are left out.
func TestNoMPTCPDump(t *testing.T) {
	for _, inUse := range []bool{true, false} {
		c := newTest(t, Config{}, &fakeKernel{mptcpErr: errors.New("dumped")})
		c.mptcpInUse = func() bool { return inUse }
		if r := c.collect(t.Context()); (r.mptcp.err != nil) != inUse || r.tcp.err != nil {
			t.Errorf("MPTCP in use %t: errors %v and %v", inUse, r.mptcp.err, r.tcp.err)
		}
	}
}
