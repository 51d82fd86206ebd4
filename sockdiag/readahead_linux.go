package sockdiag

import (
	"context"
	"errors"
	"sync"

	"github.com/mdlayher/netlink"
)

// batchesPerFamily bounds the datagrams in flight for each family. With fewer batches
// the reader and the caller block each other more often.
const batchesPerFamily = 8

// batch holds one received and validated datagram.
type batch struct {
	buffer   []byte
	payloads [][]byte // slices of buffer, one flow each
	err      error    // ends the reply; payloads stay valid
	free     chan<- *batch
}

// readAheadFlows implements Flows for Query.Ahead with one reader goroutine for each
// family. All readers have exited when it returns.
func (c *Conn) readAheadFlows(ctx context.Context, q Query, families []Family, attributes []netlink.Attribute, yield func(Flow, error) bool) {
	fail := func(err error) { yield(Flow{}, dumpError(q.Protocol, err)) }
	flows := 0
	ctx, cancel := context.WithCancel(ctx)
	full := make(chan *batch, len(families)*batchesPerFamily)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	for i, family := range families {
		conn, err := c.reader(i)
		if err != nil {
			yield(Flow{}, err) // not an answer of the kernel
			return
		}
		r := request{family: family, protocol: q.Protocol, info: q.Info, states: q.States}
		readers.Go(func() { conn.readBatches(ctx, r, attributes, full) })
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
			f, err := c.parse(payload, q.Protocol)
			flows++
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
	c.dumped = flows
}

// reader returns the connection for the i-th family: c for the first family, an extra
// connection for any other. It dials and redials in the caller's thread, because reader
// goroutines may run on threads in another network namespace.
func (c *Conn) reader(i int) (*Conn, error) {
	if i > len(c.extra) {
		conn := &Conn{enter: c.enter} // batches bring their own buffers
		if err := conn.dial(); err != nil {
			return nil, err
		}
		c.extra = append(c.extra, conn)
	}
	conn := c
	if i > 0 {
		conn = c.extra[i-1]
	}
	if conn.unfinished {
		if err := conn.redial(); err != nil {
			return nil, err
		}
	}
	return conn, nil
}

// readBatches sends one request and delivers the reply in batches until the reply or ctx
// ends. The last batch has the error that ended the reply, errDone for a complete reply.
// The receiver owns a delivered batch until it returns the batch through free.
func (c *Conn) readBatches(ctx context.Context, r request, attributes []netlink.Attribute, full chan<- *batch) {
	response, err := c.send(typeByFamily, netlink.Dump, r, attributes)
	if err != nil {
		deliver(ctx, full, &batch{err: err})
		return
	}
	free := make(chan *batch, batchesPerFamily)
	for _, b := range c.batches { // all batches are free between dumps
		b.free = free
		free <- b
	}
	for {
		b := c.emptyBatch(ctx, free)
		if b == nil {
			return
		}
		c.fill(ctx, b, response)
		last := b.err != nil // read before deliver transfers ownership
		if !deliver(ctx, full, b) || last {
			return
		}
	}
}

// emptyBatch returns a free batch or allocates one, up to batchesPerFamily. At the limit
// it blocks until a batch is returned. It returns nil when ctx ends.
func (c *Conn) emptyBatch(ctx context.Context, free chan *batch) *batch {
	select {
	case b := <-free:
		return b
	default:
	}
	if len(c.batches) < batchesPerFamily {
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

// fill receives one datagram into a batch and splits it into payloads.
func (c *Conn) fill(ctx context.Context, b *batch, response *reply) {
	b.payloads = b.payloads[:0]
	var datagram []byte
	if datagram, b.err = c.datagram(ctx, b.buffer); b.err == nil {
		for payload, err := range response.messages(datagram) {
			if err != nil {
				b.err = err
				break
			}
			b.payloads = append(b.payloads, payload)
		}
	}
	c.unfinished = !response.ended
}

// deliver sends a batch to the receiver. It reports false if ctx ended first.
func deliver(ctx context.Context, full chan<- *batch, b *batch) bool {
	select {
	case full <- b:
		return true
	case <-ctx.Done():
		return false
	}
}
