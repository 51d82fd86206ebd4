package sockdiag

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/netns"
	"tcphup/test/kit/nstest"
)

// A connection stays in its namespace: also for the socket after an abandoned dump, for those
// of Query.Ahead, and for the ephemeral ports.
func TestPrivilegedDialIn(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const local, service = "127.0.0.1:40001", "127.0.0.1:4001"
		const local6, service6 = "[::1]:40001", "[::1]:4001"
		other, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = other.Close() })
		err = other.Do(func() error {
			connect(t, listen(t, service, false), local, service, false)
			connect(t, listen(t, service6, false), local6, service6, false)
			return os.WriteFile(ephemeralPortsFile, []byte("30000 30009"), 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
		c, err := DialIn(7, other.Do)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		query := Query{States: States(Established)}
		// After an abandoned dump the connection opens another socket for the next one.
		abandon := func() {
			for _, err := range c.Flows(t.Context(), query) {
				if err != nil {
					t.Error(err)
				}
				break
			}
		}
		abandon()
		for _, ahead := range []bool{false, true, true} {
			query.Ahead = ahead
			flows := collect(t, large(c), query)
			if len(flows) != 4 {
				t.Fatalf("read ahead %t: %d flows, want client and server of two connections", ahead, len(flows))
			}
			for _, f := range flows {
				if f.Netns != 7 {
					t.Errorf("read ahead %t: network namespace is %d", ahead, f.Netns)
				}
			}
			abandon()
		}
		table, err := ReadTable(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if table.Ephemeral != (PortRange{30000, 30009}) {
			t.Errorf("ephemeral ports are %v", table.Ephemeral)
		}
		if own := mustDial(t); len(collect(t, own, Query{States: States(Established)})) != 0 {
			t.Error("own namespace has flows")
		}
		client := Flow{Family: IPv4, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(service)}
		for _, f := range collect(t, c, Query{States: States(Established)}) {
			if f.Local == client.Local {
				client = f
			}
		}
		if _, err := mustDial(t).Lookup(t.Context(), &client); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("lookup in the own namespace: %v", err)
		}
		if err := mustDial(t).Destroy(t.Context(), &client); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("destroy in the own namespace: %v", err)
		}
		if err := c.Destroy(t.Context(), &client); err != nil {
			t.Error(err)
		}
		testEnterFails(t, &client)
		failed := errors.New("failed")
		if _, err := DialIn(7, func(func() error) error { return failed }); !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
	})
}

// testEnterFails checks the errors if the namespace cannot be entered again. No flow is gone
// for that reason, and no kernel module is missing.
func testEnterFails(t *testing.T, flow *Flow) {
	t.Helper()
	for _, failure := range []error{os.ErrNotExist, unix.EMFILE} {
		var enterErr error
		c, err := DialIn(7, func(open func() error) error {
			if enterErr != nil {
				return enterErr
			}
			return open()
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		enterErr = failure
		var dumpErr, redialErr error
		query := Query{States: States(Listen), Ahead: true}
		for _, dumpErr = range large(c).Flows(t.Context(), query) {
		}
		if !errors.Is(dumpErr, failure) || errors.Is(dumpErr, ErrNoTCPDiag) {
			t.Errorf("read ahead: %v", dumpErr)
		}
		c.unfinished = true
		_, err = c.Lookup(t.Context(), flow)
		query.Ahead = false
		for _, redialErr = range c.Flows(t.Context(), query) {
		}
		for _, err := range []error{err, redialErr} {
			if err == nil || errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrNoTCPDiag) || errors.Is(err, unix.EMFILE) != errors.Is(failure, unix.EMFILE) {
				t.Errorf("after %v: %v", failure, err)
			}
		}
	}
}
