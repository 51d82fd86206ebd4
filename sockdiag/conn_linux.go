package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nlenc"
	"golang.org/x/sys/unix"
)

// bufferLen is the kernel's maximum for one datagram of a dump, in bytes.
const bufferLen = 32 << 10

// Conn is a sock_diag connection and its reusable receive buffers: 32 KiB, and up to
// 512 KiB more after a dump with Query.Ahead. It must not be used by several goroutines
// at once. The zero Conn is closed; see Reopen.
type Conn struct {
	netns     uint64                        // of DialIn
	enter     func(open func() error) error // of DialIn
	transport *transport                    // nil if closed
	buffer    []byte

	// receive is transport.receive.
	receive func(b []byte) (n int, err error)

	// unfinished is true while datagrams of an abandoned reply may still arrive.
	unfinished bool

	// bound is that of Bound; blocked is closed when the abandoned system call has returned, and
	// nil without one.
	bound   *BlockedCalls
	blocked chan struct{}

	// separate is set if the kernel has no dump of both families.
	separate bool
	// dumped counts the flows of the last complete dump with Query.Ahead, and profile has
	// their families and ports.
	dumped  int
	profile profile

	// extra and batches serve Query.Ahead: a connection for the second reader, and the
	// receive buffers.
	extra   []*Conn
	batches []*batch
}

// Dial opens a connection to the network namespace of the calling thread. It needs no
// capability. The error matches errors.ErrUnsupported if the kernel lacks sock_diag.
func Dial() (*Conn, error) { return DialIn(0, nil) }

// DialIn is Dial for another network namespace. enter calls open on a thread in it, again for
// each socket that the Conn opens later, and returns its error; nil calls it directly. netns is
// Flow.Netns of the flows.
func DialIn(netns uint64, enter func(open func() error) error) (*Conn, error) {
	if enter == nil {
		enter = func(open func() error) error { return open() }
	}
	c := &Conn{netns: netns, enter: enter, buffer: make([]byte, bufferLen)}
	if err := c.dial(); err != nil {
		return nil, err
	}
	return c, nil
}

// Reopen opens a closed connection, or the zero Conn, in the network namespace of the calling
// thread, and keeps its buffers. Until Close the connection must be used on threads in that
// namespace. netns is Flow.Netns of the flows.
func (c *Conn) Reopen(netns uint64) error {
	c.netns, c.enter = netns, func(open func() error) error { return open() }
	c.dumped = 0
	if c.buffer == nil {
		c.buffer = make([]byte, bufferLen)
	}
	return c.dial()
}

func (c *Conn) dial() error { return c.enter(c.open) }

func (c *Conn) open() error {
	s, err := openTransport()
	if err != nil {
		return err
	}
	c.transport, c.receive, c.unfinished = s, s.receive, false
	return nil
}

// Close closes the connection and the connections that Query.Ahead opened.
func (c *Conn) Close() error {
	var errs []error
	for _, other := range c.extra {
		errs = append(errs, other.Close())
	}
	switch s := c.transport; {
	case s == nil:
	case c.blocked != nil:
		// Its descriptor must not be reused before.
		go func(returned <-chan struct{}) { <-returned; _ = s.close() }(c.blocked)
	default:
		errs = append(errs, s.close())
	}
	c.extra, c.transport = nil, nil
	return errors.Join(errs...)
}

// Query selects the sockets of a dump.
type Query struct {
	// Protocol defaults to TCP. A TCP dump includes the subflows of MPTCP connections.
	// An MPTCP dump lists whole connections.
	Protocol Protocol
	// Families lists the families to dump, in order. Empty means both: one walk of the
	// kernel's table dumps the TCP sockets of both, in its order.
	Families []Family
	// States must not be empty.
	States StateSet
	// Selector drops flows for which Selector.MayMatch is false; nil drops none.
	// Direction, state and evidence are not checked.
	Selector *Selector
	// Info requests TCPInfo or MPTCPInfo, about a third of the kernel's work.
	Info bool
	// Ahead is for large namespaces: if the last such dump had more than manyFlows flows, two
	// readers dump the families, or the lower and the higher ports, in parallel and buffer
	// flows while the caller handles earlier ones. Flows of both readers mix. It costs one
	// goroutine and up to eight buffers for each reader, and one connection for the second.
	// The first such dump opens this connection, in the namespace of the Conn. Buffers and
	// connections are kept for later dumps.
	Ahead bool
}

// Flows streams sockets in kernel order and buffers none unless Query.Ahead is set. The
// iteration may be stopped early. Until it ends, the connection must not be used for
// another call.
//
// An error is yielded last, with a zero Flow, and means that flows may be missing. It matches
// ErrInterrupted for an inconsistent dump, and ErrNoTCPDiag or ErrNoMPTCPDiag if the kernel
// cannot dump the protocol. If ctx ends, the error matches ctx.Err().
func (c *Conn) Flows(ctx context.Context, q Query) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		attributes := protocolAttributes(q.Protocol)
		if q.Selector != nil {
			if len(q.Selector.Destinations) == 0 {
				return
			}
			if program := q.Selector.bytecode(); program != nil {
				attributes = append(attributes, netlink.Attribute{Type: reqAttrBytecode, Data: program})
			}
		}
		if c.dumpBoth(ctx, q, attributes, yield) {
			return
		}
		families := q.Families
		if len(families) == 0 {
			families = []Family{IPv4, IPv6}
		}
		if q.Ahead {
			var parts []part
			for _, family := range families {
				parts = append(parts, part{family: family})
			}
			c.readAheadFlows(ctx, q, parts, attributes, yield)
			return
		}
		for _, family := range families {
			r := request{family: family, protocol: q.Protocol, info: q.Info, states: q.States}
			for f, err := range c.exchange(ctx, typeByFamily, netlink.Dump, r, attributes) {
				if err != nil {
					yield(Flow{}, dumpError(q.Protocol, err))
					return
				}
				if q.Selector != nil && !q.Selector.MayMatch(&f) {
					continue
				}
				if !yield(f, nil) {
					return
				}
			}
		}
	}
}

// Lookup returns the current state of one flow, with TCPInfo or MPTCPInfo. It finds a TCP
// flow by addresses and cookie, an MPTCP connection by token and cookie. The error matches
// os.ErrNotExist if the flow is gone, even if a new socket has the same addresses.
func (c *Conn) Lookup(ctx context.Context, flow *Flow) (Flow, error) {
	attributes := protocolAttributes(flow.Protocol)
	r := request{family: flow.Family, protocol: flow.Protocol, info: true, states: ^StateSet(0), flow: flow}
	var found Flow
	for f, err := range c.exchange(ctx, typeByFamily, 0, r, attributes) {
		switch {
		case errors.Is(err, unix.ESTALE), errors.Is(err, unix.ENOENT) && flow.Interface != 0:
			return c.lookupByDump(ctx, flow)
		case err != nil:
			return Flow{}, fmt.Errorf("look up socket: %w", err)
		}
		found = f
	}
	if found.Cookie != flow.Cookie {
		return c.lookupByDump(ctx, flow)
	}
	return found, nil
}

// lookupByDump is Lookup for a flow whose addresses lead the kernel to another socket. A
// socket that is bound to a device can have the addresses of an unbound one, which a
// lookup finds first, so only a dump without the cookie shows that the flow is gone.
func (c *Conn) lookupByDump(ctx context.Context, flow *Flow) (Flow, error) {
	const attempts = 3 // a dump can be interrupted by changes
	query := Query{
		Protocol: flow.Protocol, Families: []Family{flow.Family}, States: ^StateSet(0), Info: true,
		Selector: &Selector{
			Destinations: []netip.Prefix{netip.PrefixFrom(flow.Remote.Addr(), flow.Remote.Addr().BitLen())},
			Ports:        Ports(flow.Local.Port()),
		},
	}
	var err error
	for range attempts {
		var f Flow
		for f, err = range c.Flows(ctx, query) {
			if err == nil && f.Cookie == flow.Cookie && f.Local == flow.Local && f.Remote == flow.Remote {
				return f, nil
			}
		}
		if !errors.Is(err, ErrInterrupted) {
			break
		}
	}
	if err != nil {
		return Flow{}, fmt.Errorf("look up socket: %w", err)
	}
	return Flow{}, fmt.Errorf("look up socket: no socket has the cookie: %w", os.ErrNotExist)
}

// Destroy aborts a TCP flow with SOCK_DESTROY: the peer receives an RST, queued data is
// lost, and the application reads ECONNABORTED. The kernel compares addresses and cookie,
// so a new socket on the same addresses is safe. A flow without a cookie is an error.
//
// It needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY. The error matches os.ErrPermission
// without the capability and errors.ErrUnsupported without the kernel option or for an
// MPTCP connection: the kernel destroys subflows only. It matches os.ErrNotExist if the
// flow is gone.
func (c *Conn) Destroy(ctx context.Context, flow *Flow) error {
	if flow.Protocol == MPTCP {
		return fmt.Errorf("destroy socket: %w: the kernel destroys MPTCP subflows only", errors.ErrUnsupported)
	}
	if flow.Cookie == 0 || flow.Cookie == noCookie {
		return errors.New("destroy socket: flow has no cookie")
	}
	r := request{family: flow.Family, states: ^StateSet(0), flow: flow}
	for _, err := range c.exchange(ctx, typeDestroy, netlink.Acknowledge, r, nil) {
		switch {
		case errors.Is(err, unix.ESTALE):
			return fmt.Errorf("destroy socket: cookie has changed: %w", os.ErrNotExist)
		case err != nil:
			return fmt.Errorf("destroy socket: %w", err)
		}
	}
	return nil
}

func protocolAttributes(p Protocol) []netlink.Attribute {
	if p != MPTCP {
		return nil
	}
	return []netlink.Attribute{{Type: reqAttrProtocol, Data: nlenc.Uint32Bytes(protocolMPTCP)}}
}
