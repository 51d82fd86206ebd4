package collector

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
)

// A snapshot has the same counts as the metrics.
func TestSnapshot(t *testing.T) {
	const s = time.Second
	kernel := &fakeKernel{flows: []sockdiag.Flow{
		flow("10.0.0.1:40000", "10.0.0.5:5432", idle(1*s, 1*s, 0), timer(sockdiag.TimerKeepalive, 0)),
		flow("10.0.0.1:40001", "10.0.0.5:5432", idle(2*s, 2*s, 0), timer(sockdiag.TimerRetransmit, 2)),
		flow("10.0.0.1:40002", "10.0.0.5:5432", idle(9000*s, 9000*s, 0)),
		flow("10.0.0.1:40003", "10.0.0.5:5432", state(sockdiag.TimeWait)),
		flow("10.0.0.1:40004", "10.0.0.6:443", mptcp(7, 0, 1), inode(9)),
		flow("10.0.0.1:40004", "10.0.0.6:443", idle(60*s, 60*s, 0), subflow(7, 0), inode(9)),
		flow("10.0.0.1:40005", "10.0.0.7:1"),
		flow("10.0.1.1:40004", "10.0.0.6:443", inode(9)), // a subflow that the kernel does not report as one
		flow("10.0.0.1:22", "10.0.0.8:40000", state(sockdiag.SynRecv), inode(0)),
		flow("10.0.0.1:22", "10.0.0.8:40001", state(sockdiag.TimeWait), inode(0)),
	}}
	c := newTest(t, Config{MaxDestinations: 2}, kernel)
	got, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got.Destinations, func(a, b Destination) int { return cmp.Compare(a.Address, b.Address) })
	want := &Snapshot{
		Destinations: []Destination{
			{Address: "10.0.0.5", Port: "5432", Sockets: 3, Idle: []int{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, MedianIdle: 2 * s, LongestIdle: 9000 * s, Stalled: 1, Armed: 1},
			{Address: "10.0.0.6", Port: "443", Sockets: 2, Idle: []int{1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, LongestIdle: 60 * s, Subflows: 2, Connections: 1},
			{Address: "other", Sockets: 1, Idle: []int{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		},
		Folded:  1,
		Inbound: 1,
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Destinations[0].Other() || !got.Destinations[2].Other() {
		t.Error("Other reports the wrong destination")
	}
	if got, want := len(IdleBuckets()), len(idleBuckets); got != want {
		t.Errorf("%d buckets, want %d", got, want)
	}

	// A snapshot that joins the scan of a scrape starts a scan of its own.
	release, scraped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(scraped)
		if _, err := c.scans.do(t.Context(), func(context.Context) *result { <-release; return new(result) }); err != nil {
			t.Error(err)
		}
	}()
	waiting := func(n int) func() bool {
		return func() bool {
			c.scans.mu.Lock()
			defer c.scans.mu.Unlock()
			return c.scans.current != nil && c.scans.current.waiting == n
		}
	}
	nstest.Eventually(t, "the scrape scans", waiting(1))
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		if got, err := c.Snapshot(t.Context()); err != nil || len(got.Destinations) != 3 || got.Destinations[0].LongestIdle == 0 {
			t.Errorf("snapshot during a scrape: %+v, %v", got, err)
		}
	}()
	nstest.Eventually(t, "the snapshot joins", waiting(2))
	close(release)
	<-scraped
	<-joined
	if r := c.collect(t.Context()); r.idleListed || r.destinations[0].idleTimes != nil {
		t.Error("a scrape lists idle times")
	}

	kernel.mptcpErr = sockdiag.ErrInterrupted
	got, err = c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range got.Destinations {
		if d.Subflows+d.Connections+d.Pathless > 0 {
			t.Errorf("counts of an incomplete MPTCP dump: %+v", d)
		}
	}

	kernel.tcpErr = sockdiag.ErrInterrupted
	if got, err := c.Snapshot(t.Context()); !errors.Is(err, sockdiag.ErrInterrupted) {
		t.Errorf("interrupted dump: %+v, %v", got, err)
	}
}

// No idle times stay in memory after a snapshot, also if its scan failed.
func TestSnapshotReleasesIdleTimes(t *testing.T) {
	kernel := &fakeKernel{flows: []sockdiag.Flow{
		flow("10.0.0.1:40000", "10.0.0.5:5432", idle(time.Second, time.Second, 0)),
		flow("10.0.0.1:40001", "10.0.0.6:5432", idle(time.Second, time.Second, 0)),
	}}
	c := newTest(t, Config{MaxDestinations: 1}, kernel)
	for _, err := range []error{nil, sockdiag.ErrInterrupted} {
		kernel.tcpErr = err
		if _, got := c.Snapshot(t.Context()); !errors.Is(got, err) {
			t.Fatalf("got %v, want %v", got, err)
		}
		if slices.ContainsFunc(c.aggregator.destinations.aggregates, func(a aggregate) bool { return a.idleTimes != nil }) {
			t.Errorf("idle times in memory after a scan with error %v", err)
		}
	}
}
