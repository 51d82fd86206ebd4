package actuator

import (
	"context"
	"iter"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// readerFunc is a sockdiag.Reader.
type readerFunc func(sockdiag.Query) []sockdiag.Flow

func (read readerFunc) Flows(_ context.Context, q sockdiag.Query) iter.Seq2[sockdiag.Flow, error] {
	return func(yield func(sockdiag.Flow, error) bool) {
		for _, f := range read(q) {
			if !yield(f, nil) {
				return
			}
		}
	}
}

// Connections share a dump of subflows for as long as it took.
func TestSubflowDump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const connections, took = 400, time.Second
		dumps, subflows := 0, 1
		kernel := readerFunc(func(q sockdiag.Query) (flows []sockdiag.Flow) {
			for i := range uint32(connections) {
				f := sockdiag.Flow{State: sockdiag.Established, Protocol: q.Protocol, Cookie: uint64(i), MPTCPInfo: sockdiag.MPTCPInfo{Token: i + 1}}
				if q.Protocol == sockdiag.MPTCP {
					flows = append(flows, f)
					continue
				}
				for n := range subflows {
					f.Cookie, f.IsSubflow, f.Subflow.Token = uint64(1000*(n+1))+uint64(i), true, i+1
					flows = append(flows, f)
				}
			}
			if q.Protocol == sockdiag.TCP {
				dumps++
				time.Sleep(took)
			}
			return flows
		})
		var table sockdiag.Table
		if err := table.ReadConnections(t.Context(), kernel, sockdiag.Open); err != nil {
			t.Fatal(err)
		}
		dumps = 0
		d := subflowDump{from: kernel, table: &table}
		check := func(want, counted int) {
			t.Helper()
			for _, c := range table.Connections() {
				got, err := d.of(t.Context(), &c, counted)
				if err != nil {
					t.Fatal(err)
				}
				if len(got) != want || got[0].Subflow.Token != c.MPTCPInfo.Token {
					t.Fatalf("connection %d has subflows %+v, want %d", c.Cookie, got, want)
				}
			}
		}
		check(1, 1)
		subflows = 2
		time.Sleep(took - time.Nanosecond)
		check(1, 0)
		if dumps != 1 {
			t.Errorf("%d connections took %d dumps, want 1", connections, dumps)
		}
		time.Sleep(time.Nanosecond)
		check(2, 0)
		subflows = 3 // joined while the dump is valid: the kernel's count shows it
		check(3, 3)
		if dumps != 3 {
			t.Errorf("%d dumps, want 3", dumps)
		}
	})
}

// A subflow that joins while a dump is valid is found by the kernel's count of subflows, and
// before Linux 6.4 by the next dump.
func TestPrivilegedJoinAfterDump(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		peer := nstest.NewPeer(t)
		nstest.Command(t, "ip", "-n", "peer", "mptcp", "endpoint", "flush")
		var server *testapp.Server
		peer.Do(func() {
			server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true, KeepOpen: true})
		})
		port := server.Addr().Port()
		app := testapp.Start(t, testapp.Build(t))
		app.Call("write %d", app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), false, true))
		ns, err := (&action{Actuator: New(Config{})}).openNamespace(hangup.Namespace{})
		if err != nil {
			t.Fatal(err)
		}
		defer ns.conn.Close()
		table, err := sockdiag.ReadTable(t.Context(), ns.conn)
		if err != nil {
			t.Fatal(err)
		}
		ns.subflows = subflowDump{from: ns.conn, table: table}
		connection := table.Connections()[0]
		before, err := ns.subflows.of(t.Context(), &connection, 0)
		if err != nil || len(before) != 1 {
			t.Fatalf("before: %+v, %v", before, err)
		}
		ns.subflows.validUntil = time.Now().Add(time.Hour)
		nstest.Command(t, "ip", "-n", "peer", "mptcp", "endpoint", "add", nstest.Peer4Two, "dev", "two", "signal")
		awaitSubflows(t, port, 2)
		now, err := ns.conn.Lookup(t.Context(), &connection)
		if err != nil {
			t.Fatal(err)
		}
		if !kernelAtLeast6(4) { // it counts no subflows: the next dump finds the new one
			ns.subflows.validUntil = time.Time{}
		}
		if after, err := ns.refreshSubflows(t.Context(), &now, before); err != nil || len(after) != 2 {
			t.Errorf("after the join: %+v, %v; the kernel counts %d", after, err, now.MPTCPInfo.SubflowsTotal)
		}
	})
}
