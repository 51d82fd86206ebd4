package collector

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"tcphup/internal/nstest"
	"tcphup/sockdiag"
)

// pageText is what a page says.
func pageText(t *testing.T, p *page) string {
	t.Helper()
	var b strings.Builder
	for _, f := range p.gather() {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// busyAndQuiet are the sockets of two kernels with hardly anything in common.
func busyAndQuiet() (busy, quiet []sockdiag.Flow) {
	const s = time.Second
	busy = []sockdiag.Flow{
		flow("0.0.0.0:22", "0.0.0.0:0", state(sockdiag.Listen)),
		flow("10.0.0.1:22", "10.9.9.9:41000"),
		flow("10.0.0.1:40000", "10.0.0.2:80", idle(90*s, 70*s, 100*s), timer(sockdiag.TimerRetransmit, 5), queues(3, 1000)),
		flow("10.0.0.1:40001", "10.0.0.3:80", idle(9000*s, 9000*s, s), timer(sockdiag.TimerKeepalive, 2)),
		flow("10.0.0.1:40002", "10.0.0.4:80", mptcp(1, 0, 2), inode(100)),
		flow("10.0.0.1:40002", "10.0.0.4:80", subflow(1, 0), inode(100), idle(2*s, 2*s, s)),
		flow("10.0.1.1:40003", "10.0.1.4:80", subflow(1, sockdiag.SubflowJoinLocal), inode(100), idle(70*s, 80*s, s)),
	}
	return busy, []sockdiag.Flow{flow("10.0.0.1:40010", "10.0.0.9:443", idle(3*s, 3*s, s))}
}

// Nothing of one pass shows in the next one, which has its memory.
func TestPageUsedAgain(t *testing.T) {
	busy, quiet := busyAndQuiet()
	kernel := &fakeKernel{flows: busy}
	c := newTest(t, Config{}, kernel)
	first, release := c.collect(t.Context())
	full := pageText(t, first)
	release()
	for _, step := range []struct {
		flows []sockdiag.Flow
		want  string
	}{
		{quiet, served(t, newTest(t, Config{}, &fakeKernel{flows: quiet}))},
		{nil, served(t, newTest(t, Config{}, &fakeKernel{}))},
		{busy, full},
	} {
		kernel.flows = step.flows
		p, release := c.collect(t.Context())
		if p != first {
			t.Error("the page that was released is not used again")
		}
		if diff := cmp.Diff(strings.Split(step.want, "\n"), strings.Split(pageText(t, p), "\n")); diff != "" {
			t.Errorf("a page that was used before (-want +got):\n%s", diff)
		}
		release()
	}
}

// Whoever takes long to read a page keeps it as it is.
func TestPageOfASlowReader(t *testing.T) {
	busy, quiet := busyAndQuiet()
	kernel := &fakeKernel{flows: busy}
	c := newTest(t, Config{}, kernel)
	slow, release := c.collect(t.Context())
	before := pageText(t, slow)
	kernel.flows = quiet
	var pages []*page
	for range 3 {
		p, release := c.collect(t.Context())
		pages = append(pages, p)
		release()
	}
	if pages[0] == slow || pages[1] != pages[0] || pages[2] != pages[0] {
		t.Errorf("pages %p while somebody reads %p", pages, slow)
	}
	if after := pageText(t, slow); after != before {
		t.Errorf("a page has changed while it was read:\n%s\nit was\n%s", after, before)
	}
	release()
}

// A pass that several scrapes share is read by all of them before its page is used
// again, and so is one that a registry reads, which never says when it has.
func TestPageOfMany(t *testing.T) {
	wait, dumps := make(chan struct{}), 0
	c := newTest(t, Config{}, &fakeKernel{wait: wait, dumps: &dumps})
	type got struct {
		page    *page
		release func()
	}
	results := make(chan got)
	for range 2 {
		go func() {
			p, release := c.collect(t.Context())
			results <- got{p, release}
		}()
	}
	nstest.Eventually(t, "two scrapes wait for one pass", func() bool { return c.shared.waiting() == 2 })
	close(wait)
	a, b := <-results, <-results
	if a.page != b.page {
		t.Fatal("two scrapes at once have not shared a pass")
	}
	next := func() *page {
		p, release := c.collect(t.Context())
		release()
		return p
	}
	a.release()
	if next() == a.page {
		t.Error("a page is used again while one of two scrapes reads it")
	}
	b.release()

	spare := c.shared.spare
	if spare == nil {
		t.Fatal("no page is kept")
	}
	c.Collect(make(chan prometheus.Metric, 100))
	if next() == spare {
		t.Error("a page that a registry may still read is used again")
	}
}
