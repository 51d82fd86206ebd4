package collector

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// nodeResult is the part of a result that only a scan of a node has.
type nodeResult struct {
	counts NodeCounts
	found  bool          // NodeConfig.Find succeeded; else counts is empty
	spent  time.Duration // processor time of this scan and all earlier ones
}

// found reports whether the scan was of a node and found its pods.
func (r *result) found() bool { return r.node != nil && r.node.found }

// nodeScan is a running scan of a node.
type nodeScan struct {
	*Collector
	result  *result
	observe func(*hangup.Pod, *sockdiag.Flow) // of a NodeObserver; may be nil
	results []*namespaceResult
	partial map[hangup.PodName]bool // pods whose dump failed
	used    time.Duration           // processor time in namespaces
	start   time.Time               // of Collector.now
	begun   time.Time               // the same time of the system clock
	failure error                   // the first one, of the pod failed
	failed  hangup.PodName
}

// scanNode reads the namespaces of the pods of a node, for the callers of Collector.scans.
func (c *Collector) scanNode(ctx context.Context) *result {
	n, start, begun := c.node, c.now(), time.Now()
	var found Found
	var err error
	n.spent += n.timed(func() { found, err = n.Find() })
	if err != nil {
		c.logger.Error("cannot find pods", "err", err)
		failed := sourceResult{err: err, took: c.now().Sub(start)}
		return &result{tcp: failed, mptcp: failed, node: &nodeResult{spent: n.spent}, idleListed: n.reader.aggregator.listIdle}
	}
	s := &nodeScan{Collector: c, partial: make(map[hangup.PodName]bool), result: &result{
		idleListed: n.reader.aggregator.listIdle,
		node: &nodeResult{found: true, counts: NodeCounts{
			Node: found.Node, Other: found.Other, HostNetwork: found.HostNetwork, Unnamed: found.Unnamed,
		}},
	}}
	done := func(bool) []prometheus.Metric { return nil }
	if n.Observer != nil {
		s.observe, done = n.Observer.ObservePods()
	}
	s.start, s.begun = start, begun
	s.readPods(ctx, found.Pods)
	n.spent += s.used
	limitTotal(s.results, n.limit, func(one *namespaceResult) *selection { return &one.outbound })
	limitTotal(s.results, n.limit, func(one *namespaceResult) *selection { return &one.inbound })
	s.result.add(s.results...)
	counts := &s.result.node.counts
	s.result.observed = withoutPods(done(counts.Skipped+counts.Failed+counts.Ended == 0), s.partial)
	s.result.node.spent = n.spent
	return s.result
}

// limitTotal folds destinations of the namespaces with the most, so that at most limit are
// kept in all.
func limitTotal(all []*namespaceResult, limit int, get func(*namespaceResult) *selection) {
	sizes := make([]int, len(all))
	for i, one := range all {
		sizes[i] = len(get(one).kept)
	}
	most := share(sizes, limit)
	for _, one := range all {
		get(one).truncate(most)
	}
}

// readPods reads the namespaces in turn until the budget or the time is used up.
func (s *nodeScan) readPods(ctx context.Context, namespaces []hangup.Namespace) {
	counts := &s.result.node.counts
	pods, duplicates := s.node.update(namespaces, s.kind())
	counts.Other += duplicates
	for len(pods) > 0 {
		pods = s.readInTurn(ctx, pods)
	}
	if s.failure != nil {
		s.logger.Log(ctx, errorLevel(s.failure), "cannot read sockets of pods", "failed", counts.Failed,
			"namespace", s.failed.Namespace, "pod", s.failed.Pod, "err", s.failure)
	}
}

// kind is the index of podState.scanned.
func (s *nodeScan) kind() int { return toInt(s.result.idleListed) }

// isLate reports whether no further namespace must be begun. The rest of the time of the last
// caller is for the response.
func (s *nodeScan) isLate() bool {
	return s.now().Sub(s.start) > s.scans.until().Sub(s.begun)*2/3
}

// fail counts a namespace that could not be read.
func (s *nodeScan) fail(p *podState, tcp, mptcp sourceResult) {
	s.addSources(p, tcp, mptcp)
	s.result.node.counts.Failed++
	s.partial[p.name()] = true
}

// addSources adds the results of a namespace to the results of the scan. The first error stays.
func (s *nodeScan) addSources(p *podState, tcp, mptcp sourceResult) {
	if err := errors.Join(tcp.err, mptcp.err); err != nil && s.failure == nil {
		s.failure, s.failed = err, p.name()
	}
	s.result.tcp.took += tcp.took
	s.result.mptcp.took += mptcp.took
	s.result.tcp.err = cmp.Or(s.result.tcp.err, tcp.err)
	s.result.mptcp.err = cmp.Or(s.result.mptcp.err, mptcp.err)
}

// withoutPods removes the metrics of the pods.
func withoutPods(metrics []prometheus.Metric, pods map[hangup.PodName]bool) []prometheus.Metric {
	if len(pods) == 0 {
		return metrics
	}
	return slices.DeleteFunc(slices.Clone(metrics), func(m prometheus.Metric) bool {
		var written dto.Metric
		var of hangup.PodName
		if err := m.Write(&written); err != nil {
			return false // the gatherer reports it
		}
		for _, l := range written.GetLabel() {
			switch l.GetName() {
			case "namespace":
				of.Namespace = l.GetValue()
			case "pod":
				of.Pod = l.GetValue()
			}
		}
		return pods[of]
	})
}

// timed returns the processor time of fn, which must stay on its thread.
func (n *node) timed(fn func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := n.cpuTime()
	fn()
	return n.cpuTime() - start
}
