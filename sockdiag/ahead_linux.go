package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/mdlayher/netlink"
)

// aheadBuffers is how many datagrams of a family may be on their way. With fewer
// of them the kernel and the caller wait for each other now and then.
const aheadBuffers = 8

// batch is one datagram that has been received and checked.
type batch struct {
	buffer   []byte
	payloads [][]byte // parts of buffer, a flow each
	err      error    // what ended the answer; the payloads before it count
	free     chan<- *batch
}

// flowsAhead is Flows with one reader for each family. All of them have ended
// when it returns.
func (c *Conn) flowsAhead(ctx context.Context, q Query, families []Family, attributes []netlink.Attribute, yield func(Flow, error) bool) {
	fail := func(err error) { yield(Flow{}, fmt.Errorf("dump %s sockets: %w", q.Protocol, err)) }
	ctx, cancel := context.WithCancel(ctx)
	full := make(chan *batch, len(families)*aheadBuffers)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	for i, family := range families {
		conn, err := c.reader(i)
		if err != nil {
			fail(err)
			return
		}
		r := request{family: family, protocol: q.Protocol, info: q.Info, states: q.States}
		readers.Go(func() { conn.readAhead(ctx, r, attributes, full) })
	}

	for remaining := len(families); remaining > 0; {
		var b *batch
		select {
		case b = <-full:
		case <-ctx.Done():
			fail(ctx.Err())
			return
		}
		for _, payload := range b.payloads {
			f, err := parseFlow(payload, q.Protocol)
			switch {
			case err != nil:
				fail(err)
				return
			case q.Selector != nil && !q.Selector.MayMatch(&f):
			case !yield(f, nil):
				return
			}
		}
		switch {
		case b.err == nil:
			b.free <- b
		case errors.Is(b.err, errDone):
			remaining--
		default:
			fail(b.err)
			return
		}
	}
}

// reader returns the connection for the i-th family: c itself for the first. It is one
// to send on: whoever sends may run on a thread in another namespace.
func (c *Conn) reader(i int) (*Conn, error) {
	if i > len(c.beside) {
		conn := new(Conn) // it needs no buffer but its batches
		if err := conn.dial(); err != nil {
			return nil, err
		}
		c.beside = append(c.beside, conn)
	}
	conn := c
	if i > 0 {
		conn = c.beside[i-1]
	}
	if conn.unfinished {
		if err := conn.redial(); err != nil {
			return nil, err
		}
	}
	return conn, nil
}

// readAhead sends one request and delivers its answer in batches until the answer or
// ctx ends. The error of the last batch is what ended the answer: errDone if it is
// complete. A delivered batch belongs to the receiver until it comes back through free.
func (c *Conn) readAhead(ctx context.Context, r request, attributes []netlink.Attribute, full chan<- *batch) {
	answer, err := c.send(typeByFamily, netlink.Dump, r, attributes)
	if err != nil {
		deliver(ctx, full, &batch{err: err})
		return
	}
	defer c.unblock(ctx)()
	free := make(chan *batch, aheadBuffers)
	for _, b := range c.batches { // no receiver has one between dumps
		b.free = free
		free <- b
	}
	for {
		b := c.emptyBatch(ctx, free)
		if b == nil {
			return
		}
		c.fill(ctx, b, answer)
		last := b.err != nil // after deliver b is the receiver's
		if !deliver(ctx, full, b) || last {
			return
		}
	}
}

// emptyBatch returns a free batch, else a new one up to aheadBuffers, else the first one
// that becomes free. It returns nil when ctx ends.
func (c *Conn) emptyBatch(ctx context.Context, free chan *batch) *batch {
	select {
	case b := <-free:
		return b
	default:
	}
	if len(c.batches) < aheadBuffers {
		b := &batch{buffer: make([]byte, bufferLen), free: free}
		c.batches = append(c.batches, b)
		return b
	}
	select {
	case b := <-free:
		return b
	case <-ctx.Done():
		return nil
	}
}

// fill receives one datagram into the batch and splits it into payloads.
func (c *Conn) fill(ctx context.Context, b *batch, answer *reply) {
	b.payloads = b.payloads[:0]
	var datagram []byte
	if datagram, b.err = c.datagram(ctx, b.buffer); b.err == nil {
		for payload, err := range answer.messages(datagram) {
			if err != nil {
				b.err = err
				break
			}
			b.payloads = append(b.payloads, payload)
		}
	}
	c.unfinished = !answer.ended
}

// deliver passes a batch to the receiver. It reports false when ctx ended first.
func deliver(ctx context.Context, full chan<- *batch, b *batch) bool {
	select {
	case full <- b:
		return true
	case <-ctx.Done():
		return false
	}
}
