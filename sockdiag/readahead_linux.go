package sockdiag

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
)

// batchesPerReader bounds the datagrams in flight for each reader. With fewer batches the
// reader and the caller block each other more often.
const batchesPerReader = 8

// batch holds one received and validated datagram.
type batch struct {
	buffer   []byte
	payloads [][]byte // slices of buffer, one flow each
	err      error    // ends the reply; payloads stay valid
	free     chan<- *batch
}

// readAheadFlows implements Flows for Query.Ahead with one reader goroutine for each part of
// the flows. All readers have exited when it returns.
func (c *Conn) readAheadFlows(ctx context.Context, q Query, parts []part, attributes []netlink.Attribute, yield func(Flow, error) bool) {
	fail := func(err error) { yield(Flow{}, dumpError(q.Protocol, err)) }
	var flows profile
	ctx, cancel := context.WithCancel(ctx)
	full := make(chan *batch, len(parts)*batchesPerReader)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	for i, p := range parts {
		conn, err := c.reader(i)
		if err != nil {
			yield(Flow{}, err) // not an answer of the kernel
			return
		}
		r := request{family: p.family, protocol: q.Protocol, info: q.Info, states: q.States}
		of := attributes
		if program := p.bytecode(); program != nil {
			of = append(slices.Clone(attributes), netlink.Attribute{Type: reqAttrBytecode, Data: program})
		}
		readers.Go(func() { conn.readBatches(ctx, r, of, full) })
	}

	for remaining := len(parts); remaining > 0; {
		var b *batch
		select {
		case b = <-full:
		case <-ctx.Done():
			fail(ctx.Err())
			return
		}
		for _, payload := range b.payloads {
			f, err := c.parse(payload, q.Protocol)
			flows.add(&f)
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
	c.dumped, c.profile = flows.flows(), flows
}

// reader returns the connection for the i-th reader: c for the first, an extra connection for
// any other. It dials and redials in the caller's thread, because reader
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
	kind := netlink.HeaderType(typeByFamily)
	if r.family == bothFamilies {
		kind = typeBothFamilies
	}
	response, err := c.send(kind, netlink.Dump, r, attributes)
	if err != nil {
		deliver(ctx, full, &batch{err: err})
		return
	}
	free := make(chan *batch, batchesPerReader)
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

// emptyBatch returns a free batch or allocates one, up to batchesPerReader. At the limit
// it blocks until a batch is returned. It returns nil when ctx ends.
func (c *Conn) emptyBatch(ctx context.Context, free chan *batch) *batch {
	select {
	case b := <-free:
		return b
	default:
	}
	if len(c.batches) < batchesPerReader {
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
