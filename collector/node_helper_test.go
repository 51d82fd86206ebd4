package collector

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// fakePod is a pod with scripted sockets and errors. Its namespace has inode 1000 and its
// position in fakeNode.pods.
type fakePod struct {
	namespace, name, uid string // uid is that of the position if empty
	started              time.Duration
	kernel               fakeKernel
	enterErr             error         // in place of entering
	leaveErr             error         // after it was read
	cost                 time.Duration // processor time to read it
	entered              int
}

// fakeNode is a node with scripted pods.
type fakeNode struct {
	pods    []*fakePod
	counts  Found
	findErr error
	spent   atomic.Int64  // processor time in nanoseconds
	clock   time.Duration // since testBoot; see newNodeTest
	ports   atomic.Int32  // reads of the ephemeral ports
}

func (n *fakeNode) find() (Found, error) {
	n.spent.Add(int64(time.Millisecond))
	found := n.counts
	for i, p := range n.pods {
		if p == nil {
			continue
		}
		uid := p.uid
		if uid == "" {
			uid = fmt.Sprintf("uid-%d", i)
		}
		found.Pods = append(found.Pods, hangup.Namespace{
			Inode: uint64(1000 + i),
			Pod:   &hangup.Pod{Namespace: p.namespace, Name: p.name, UID: uid, Started: testBoot.Add(p.started)},
			Do: func(open func() error) error {
				p.entered++
				if p.enterErr != nil {
					return p.enterErr
				}
				return cmp.Or(p.leaveErr, open())
			},
		})
	}
	return found, n.findErr
}

// podSource is the source of a fake pod. Its flows have the inode of the namespace.
type podSource struct {
	*fakeKernel
	netns uint64
}

func (s podSource) Flows(ctx context.Context, q sockdiag.Query) iter.Seq2[sockdiag.Flow, error] {
	return func(yield func(sockdiag.Flow, error) bool) {
		for f, err := range s.fakeKernel.Flows(ctx, q) {
			f.Netns = s.netns
			if !yield(f, err) {
				return
			}
		}
	}
}

// newNodeTest returns a collector of the pods of a fake node. Its clock begins a day after
// testBoot.
func newNodeTest(t testing.TB, config Config, n *fakeNode) *Collector {
	t.Helper()
	node := NodeConfig{}
	if config.Node != nil {
		node = *config.Node
	}
	node.Find = n.find
	config.Node = &node
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return testBoot.Add(24*time.Hour + n.clock) }
	c.node.newReader = func() *reader {
		return &reader{
			oneDump: true,
			dial: func(netns uint64) (source, error) {
				p := n.pods[netns-1000]
				n.spent.Add(int64(p.cost))
				p.kernel.dialled++
				return podSource{&p.kernel, netns}, p.kernel.dialErr
			},
			ephemeralPorts: func() (sockdiag.PortRange, error) {
				n.ports.Add(1)
				return sockdiag.PortRange{First: 32768, Last: 60999}, nil
			},
			mptcpInUse: func() bool { return true },
			now:        now,
			progress:   new(atomic.Uint64),
		}
	}
	a := c.aggregator
	c.reader = *c.node.newReader()
	c.aggregator = a
	c.node.cpuTime = func() time.Duration { return time.Duration(n.spent.Load()) }
	c.node.clock = func() time.Duration { return now().Sub(testBoot) }
	return c
}

// linesOf returns the lines of an exposition that begin with one of the prefixes, without the
// name prefix tcphup_.
func linesOf(exposition string, prefixes ...string) []string {
	var all []string
	for line := range strings.Lines(exposition) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "tcphup_")
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) }) {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return all
}
