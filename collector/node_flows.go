package collector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"tcphup/hangup"
	"tcphup/internal/thread"
	"tcphup/sockdiag"
)

// newFlowsReader returns a reader whose system calls are limited in time: unlike the thread of a
// scan, their processor time is not counted.
func (n *node) newFlowsReader() *reader {
	x := n.newReader()
	dial := x.dial
	x.dial = func(netns uint64) (source, error) {
		conn, err := dial(netns)
		if c, ok := conn.(*sockdiag.Conn); ok && err == nil {
			c.Bound(&n.blocked)
		}
		return conn, err
	}
	return x
}

// eachFlow calls add for each flow of the node that matches the query. It fails only if the pods
// cannot be found, or when ctx ends.
func (n *node) eachFlow(ctx context.Context, q *flowsQuery, add func(*sockdiag.Flow, sockdiag.Direction, hangup.PodName)) (*flowsNamespaces, error) {
	found, err := n.Find()
	if err != nil {
		return nil, fmt.Errorf("find pods: %w", err)
	}
	counts := new(flowsNamespaces)
	for pods := found.Pods; len(pods) > 0 && ctx.Err() == nil; {
		x := n.newFlowsReader() // in the own namespace, see newPodReader
		<-thread.Go(func() {
			for usable := true; usable && len(pods) > 0 && ctx.Err() == nil; {
				ns := pods[0]
				pods = pods[1:]
				usable = n.eachFlowOf(ctx, x, ns, q, counts, add)
			}
		})
	}
	return counts, ctx.Err()
}

// eachFlowOf is eachFlow for one pod. It reports false if neither the reader nor the thread, see
// turn.end, must be used again.
func (n *node) eachFlowOf(ctx context.Context, x *reader, ns hangup.Namespace, q *flowsQuery, counts *flowsNamespaces, add func(*sockdiag.Flow, sockdiag.Direction, hangup.PodName)) bool {
	of := ns.Pod.Labels()
	if q.pod.Namespace != "" && q.pod.Namespace != of.Namespace || q.pod.Pod != "" && q.pod.Pod != of.Pod {
		return true
	}
	if n.blocked.Has(ns.Inode) {
		counts.Failed++
		return true
	}
	entered := false
	err := ns.Enter(func() error {
		entered = true
		return x.eachFlow(ctx, q, ns.Inode, func(f *sockdiag.Flow, d sockdiag.Direction) { add(f, d, of) })
	})
	switch {
	case err == nil:
		counts.Read++
	case !entered && errors.Is(err, os.ErrNotExist):
		counts.Ended++
	default:
		counts.Failed++
		counts.err = cmp.Or(counts.err, fmt.Errorf("read pod %s: %w", of, err))
		return false // the connection may be blocked
	}
	return true
}
