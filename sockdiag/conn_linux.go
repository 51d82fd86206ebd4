package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nlenc"
	"golang.org/x/sys/unix"
)

const (
	// bufferLen is the most that the kernel puts into one datagram of a dump.
	bufferLen = 32 << 10

	// receiveTimeout ends a wait for the kernel, which answers at once or never.
	receiveTimeout = 10 * time.Second
)

// Conn is a sock_diag connection with the memory that its calls need, which is
// used again and again: 32 KiB, and as many as 16 times that once it has read a long
// dump ahead (see Query.Ahead). It is for one goroutine at a time; open one for each.
type Conn struct {
	netlink *netlink.Conn
	buffer  []byte

	// receive reads one datagram into b and reports its full length, which may be more
	// than fits.
	receive func(b []byte) (n int, err error)

	// unfinished says that datagrams of an abandoned reply may still come.
	unfinished bool

	// beside are connections for the other families of a dump that is read ahead,
	// and batches the memory for that.
	beside  []*Conn
	batches []*batch
}

// Dial opens a connection to the network namespace of the calling thread. It
// needs no capability. The error answers errors.Is with errors.ErrUnsupported
// when the kernel has no sock_diag.
func Dial() (*Conn, error) {
	c := &Conn{buffer: make([]byte, bufferLen)}
	if err := c.dial(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Conn) dial() error {
	nl, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return fmt.Errorf("open sock_diag: %w", err)
	}
	raw, err := nl.SyscallConn()
	if err == nil {
		err = onlyFromKernel(raw)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("open sock_diag: %w", err), nl.Close())
	}
	c.netlink, c.unfinished = nl, false
	c.receive = newReceiver(raw).receive
	return nil
}

// onlyFromKernel connects a netlink socket to port id 0, the kernel: what any other
// socket sends to it is refused from then on.
func onlyFromKernel(raw syscall.RawConn) error {
	var connectErr error
	err := raw.Control(func(fd uintptr) {
		connectErr = unix.Connect(int(fd), &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	return errors.Join(err, connectErr)
}

// receiver reads datagrams. There are thousands in a long dump: nothing is allocated
// for one, as unix.Recvfrom does for the address of its sender.
type receiver struct {
	raw  syscall.RawConn
	read func(fd uintptr) (done bool) // as raw wants it
	into []byte
	n    int
	err  error
}

func newReceiver(raw syscall.RawConn) *receiver {
	r := &receiver{raw: raw}
	r.read = func(fd uintptr) bool {
		for {
			n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, fd,
				uintptr(unsafe.Pointer(unsafe.SliceData(r.into))), uintptr(len(r.into)), unix.MSG_TRUNC, 0, 0)
			switch errno {
			case 0:
				r.n, r.err = int(n), nil
				return true
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				r.n, r.err = 0, errno
				return true
			}
		}
	}
	return r
}

func (r *receiver) receive(b []byte) (int, error) {
	r.into = b
	if err := r.raw.Read(r.read); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// Close frees the connection.
func (c *Conn) Close() error {
	var errs []error
	for _, other := range c.beside {
		errs = append(errs, other.Close())
	}
	if err := c.netlink.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close sock_diag: %w", err))
	}
	return errors.Join(errs...)
}

// Query says which sockets Flows yields.
type Query struct {
	// Protocol is TCP unless said otherwise. A dump of TCP holds the subflows of
	// MPTCP connections, a dump of MPTCP the connections as a whole.
	Protocol Protocol
	// Families holds the families to dump, one after the other; none means both.
	Families []Family
	// States must not be empty.
	States StateSet
	// Selector, if set, keeps every flow back that it does not cover (see
	// Selector.MayMatch); direction, state and evidence are left to the caller.
	Selector *Selector
	// Info asks for TCPInfo or MPTCPInfo, about a third of the kernel's work.
	Info bool
	// Ahead lets the kernel produce the next flows, of all families at once, while
	// the caller handles the last. A long dump is over sooner, for a goroutine, some
	// buffers and, beyond the first, a connection more for each family. That one is
	// opened by the first such dump, to the namespace of the thread that iterates then,
	// and like the buffers it stays for the next. Flows of different families mix.
	Ahead bool
}

// Flows yields the sockets of the namespace as the kernel tells them, without
// keeping any. An error is yielded last, with a zero Flow, and means that flows
// may be missing; ErrInterrupted and a context that ended are such errors. A
// kernel without support for the protocol answers with an error for which
// errors.Is tells os.ErrNotExist. The connection cannot be used for another call
// until the iteration is over; it may be broken off.
func (c *Conn) Flows(ctx context.Context, q Query) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		families := q.Families
		if len(families) == 0 {
			families = []Family{IPv4, IPv6}
		}
		attributes := protocolAttributes(q.Protocol)
		if q.Selector != nil {
			if len(q.Selector.Destinations) == 0 {
				return
			}
			if program := q.Selector.bytecode(); program != nil {
				attributes = append(attributes, netlink.Attribute{Type: reqAttrBytecode, Data: program})
			}
		}
		if q.Ahead {
			c.flowsAhead(ctx, q, families, attributes, yield)
			return
		}
		for _, family := range families {
			r := request{family: family, protocol: q.Protocol, info: q.Info, states: q.States}
			for f, err := range c.exchange(ctx, typeByFamily, netlink.Dump, r, attributes) {
				if err != nil {
					yield(Flow{}, fmt.Errorf("dump %s sockets: %w", q.Protocol, err))
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

// Lookup returns one flow as it is now, by its addresses and cookie (an MPTCP connection:
// its token and cookie), with TCPInfo or MPTCPInfo. If the flow is gone, the error
// matches os.ErrNotExist. Another socket on the same addresses is not mistaken for it.
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
			Ports:        []uint16{flow.Local.Port()},
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

// Destroy ends a TCP flow by SOCK_DESTROY: the peer gets an RST, queued data is
// lost and the application reads ECONNABORTED. The kernel compares addresses and
// cookie, so no other flow can be meant. It needs CAP_NET_ADMIN (else the error
// answers errors.Is with os.ErrPermission) and CONFIG_INET_DIAG_DESTROY (else
// errors.ErrUnsupported); os.ErrNotExist says that the flow is gone. An MPTCP
// connection cannot be destroyed, only its subflows.
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

// exchange sends one request and yields the flows of its answer. The kernel ends the
// answer to a dump, and to a request with an acknowledgement, by a message of its own:
// errDone, which is not yielded, or the error that is yielded last. A lookup has no
// flags, and its answer is exactly one message. unfinished stays set until the answer
// has ended, so that after an early return the next request gets a new connection.
func (c *Conn) exchange(ctx context.Context, kind netlink.HeaderType, flags netlink.HeaderFlags, r request, attributes []netlink.Attribute) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		answer, err := c.send(kind, flags, r, attributes)
		if err != nil {
			yield(Flow{}, err)
			return
		}
		defer c.unblock(ctx)()
		for {
			datagram, err := c.datagram(ctx, c.buffer)
			if err != nil {
				yield(Flow{}, err)
				return
			}
			for payload, err := range answer.messages(datagram) {
				c.unfinished = !answer.ended
				if errors.Is(err, errDone) {
					return
				}
				var f Flow
				if err == nil {
					f, err = parseFlow(payload, r.protocol)
				}
				if flags == 0 {
					c.unfinished = false
				}
				if !yield(f, err) || err != nil || flags == 0 {
					return
				}
			}
		}
	}
}

// send sends one request, on a fresh connection if an old answer may still be
// coming on this one, and returns what its answer is known by.
func (c *Conn) send(kind netlink.HeaderType, flags netlink.HeaderFlags, r request, attributes []netlink.Attribute) (*reply, error) {
	attrs, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	if c.unfinished {
		if err := c.redial(); err != nil {
			return nil, err
		}
	}
	c.unfinished = true
	sent, err := c.netlink.Send(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | flags},
		Data:   append(r.bytes(), attrs...),
	})
	if err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	return &reply{sequence: sent.Header.Sequence, portID: sent.Header.PID}, nil
}

// unblock lets the end of ctx end a wait for the kernel, until stop is called.
// After that nothing of it is left that could disturb the next wait.
func (c *Conn) unblock(ctx context.Context) (stop func()) {
	conn, done := c.netlink, make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// datagram receives into the buffer.
func (c *Conn) datagram(ctx context.Context, buffer []byte) ([]byte, error) {
	if err := c.netlink.SetReadDeadline(time.Now().Add(receiveTimeout)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	// The deadline that the end of ctx sets comes after this one or is overtaken
	// by it; only in the latter case is ctx over by now.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, err := c.receive(buffer)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("receive answer: %w", err)
	case n > len(buffer):
		return nil, fmt.Errorf("receive answer: %d bytes do not fit the buffer of %d", n, len(buffer))
	}
	return buffer[:n], nil
}

// redial gives up a connection on which an old answer may still be coming.
func (c *Conn) redial() error {
	old := c.netlink
	if err := c.dial(); err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		return fmt.Errorf("close sock_diag: %w", err)
	}
	return nil
}
