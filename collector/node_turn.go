package collector

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"tcphup/internal/thread"
	"tcphup/sockdiag"
)

// blockedAfter is the time without a flow after which the read of a network namespace is
// abandoned.
const blockedAfter = 2 * time.Second

// turn reads the namespaces of pods one after the other, on one thread. The scan abandons it when
// the kernel blocks that thread.
type turn struct {
	scan   *nodeScan
	reader *reader

	mu        sync.Mutex // guards all that the scan uses, until the turn is abandoned
	abandoned bool
	pods      []*podState     // to be read
	pod       *podState       // that is being read; nil between two reads
	table     *sockdiag.Table // of pod
}

// podRead is the read of one namespace.
type podRead struct {
	entered    bool
	err        error         // of hangup.Namespace.Enter
	used       time.Duration // processor time
	tcp, mptcp sourceResult
}

// readInTurn reads pods until one of them is blocked or cannot be entered, and returns those after
// it.
func (s *nodeScan) readInTurn(ctx context.Context, pods []*podState) []*podState {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &turn{scan: s, reader: s.node.reader, pods: pods}
	if s.observe != nil {
		t.reader.aggregator.observe = t.observe
	}
	ended := thread.Go(func() {
		for t.begin(ctx) && t.end(t.read(ctx)) {
		}
	})
	for !s.node.blocked.Await(ended, t.reader.progress) && !t.abandon(ended) {
	}
	s.node.reader.aggregator.observe = nil // releases the scan
	return t.pods
}

// begin skips pods up to the next one to read. It reports false if there is none.
func (t *turn) begin(ctx context.Context) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, n, counts := t.scan, t.scan.node, &t.scan.result.node.counts
	for len(t.pods) > 0 {
		p := t.pods[0]
		t.pods = t.pods[1:]
		exhausted := n.Budget > 0 && s.used >= n.Budget || s.isLate()
		if counts.Read > 0 && exhausted || ctx.Err() != nil {
			counts.Skipped++
			continue
		}
		p.scanned[s.kind()] = n.scans
		if n.blocked.Has(p.namespace.Inode) {
			s.fail(p, sourceResult{err: sockdiag.ErrBlocked}, sourceResult{})
			continue
		}
		t.pod, t.table = p, n.tableOf(p)
		return true
	}
	return false
}

// read reads the pod that begin has chosen.
func (t *turn) read(ctx context.Context) (r podRead) {
	n, p, x := t.scan.node, t.pod, t.reader
	start := n.cpuTime()
	r.err = p.namespace.Enter(func() error {
		r.entered = true
		defer x.close() // the connection is of this namespace
		r.tcp, r.mptcp = x.read(ctx, p.namespace.Inode, p.namespaceState, t.table)
		return nil
	})
	r.used = n.cpuTime() - start
	return r
}

// observe calls the observer of the scan, unless the turn is abandoned.
func (t *turn) observe(f *sockdiag.Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.abandoned {
		t.scan.observe(t.pod.namespace.Pod, f)
	}
}

// end adds what read returned to the scan, unless the turn is abandoned. It reports whether the
// thread may enter another namespace: hangup.Namespace.Enter may have left it in any state when
// it failed.
func (t *turn) end(r podRead) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.abandoned {
		return false
	}
	s, n, p := t.scan, t.scan.node, t.pod
	t.pod = nil
	t.reader.proceed()
	s.used += r.used
	n.keepTable(p, t.table)
	if !r.entered && errors.Is(r.err, os.ErrNotExist) {
		s.result.node.counts.Ended++
		n.drop(p)
		return true
	}
	if r.err != nil {
		r.tcp.err = r.err
	}
	one := t.reader.aggregator.result(r.tcp, r.mptcp, p.labels)
	if one == nil {
		s.fail(p, r.tcp, r.mptcp)
		return r.err == nil
	}
	s.addSources(p, r.tcp, r.mptcp)
	s.result.node.counts.Read++
	s.results = append(s.results, one)
	return true
}

// abandon leaves the thread of the turn alone, with the reader, the table and the state of the
// pod that it uses. ended is closed when the thread ends. It reports false if the thread reads no
// pod: then it waits for a processor.
func (t *turn) abandon(ended <-chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pod == nil {
		return false
	}
	t.abandoned = true
	s, n, p := t.scan, t.scan.node, t.pod
	n.blocked.Add(p.namespace.Inode, ended)
	n.drop(p)
	n.reader = n.newReader()
	n.reader.aggregator = s.newAggregator()
	n.reader.aggregator.listIdle = s.result.idleListed
	if t.table == n.table {
		n.table = new(sockdiag.Table)
	}
	s.fail(p, sourceResult{err: sockdiag.ErrBlocked}, sourceResult{})
	return true
}

// tableOf returns an empty table for a pod, with the cache of its last scan.
func (n *node) tableOf(p *podState) *sockdiag.Table {
	table := n.table
	if p.table != nil {
		table = p.table
	}
	table.Reset()
	return table
}

// keepTable keeps the table of a pod with MPTCP connections for its next scan.
func (n *node) keepTable(p *podState, table *sockdiag.Table) {
	switch hasMPTCP := len(table.Connections()) > 0; {
	case hasMPTCP && p.table == nil:
		p.table, n.table = table, new(sockdiag.Table)
	case !hasMPTCP:
		p.table = nil
	}
}
