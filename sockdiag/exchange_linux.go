package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// exchange sends one request and yields the flows of its reply. The kernel ends the reply
// to a dump or an acknowledged request with NLMSG_DONE or NLMSG_ERROR. An error is yielded
// last; errDone is not yielded. A lookup has no flags and a reply of exactly one message.
// unfinished stays set until the reply has ended: after an early return the next request
// uses a new connection.
func (c *Conn) exchange(ctx context.Context, kind netlink.HeaderType, flags netlink.HeaderFlags, r request, attributes []netlink.Attribute) iter.Seq2[Flow, error] {
	return func(yield func(Flow, error) bool) {
		response, err := c.send(kind, flags, r, attributes)
		if err != nil {
			yield(Flow{}, err)
			return
		}
		for {
			datagram, err := c.datagram(ctx, c.buffer)
			if err != nil {
				yield(Flow{}, err)
				return
			}
			for payload, err := range response.messages(datagram) {
				c.unfinished = !response.ended
				if errors.Is(err, errDone) {
					return
				}
				var f Flow
				if err == nil {
					f, err = c.parse(payload, r.protocol)
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

// parse decodes one message of a reply.
func (c *Conn) parse(payload []byte, protocol Protocol) (Flow, error) {
	f, err := parseFlow(payload, protocol)
	f.Netns = c.netns
	return f, err
}

// send sends one request and returns the reply to validate its datagrams with. It redials
// first if datagrams of an abandoned reply may still arrive.
func (c *Conn) send(kind netlink.HeaderType, flags netlink.HeaderFlags, r request, attributes []netlink.Attribute) (*reply, error) {
	attrs, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	if c.unfinished && c.blocked == nil {
		if err := c.redial(); err != nil {
			return nil, err
		}
	}
	if c.transport == nil {
		return nil, fmt.Errorf("send request: %w", os.ErrClosed)
	}
	c.unfinished = true
	// After a blocked call fn may still run: it uses nothing that Close changes.
	socket, payload := c.transport, append(r.bytes(), attrs...)
	var sent struct {
		reply *reply
		err   error
	}
	if err := c.bounded(func() { sent.reply, sent.err = socket.send(kind, netlink.Request|flags, payload) }); err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	return sent.reply, sent.err
}

// datagram receives one datagram into buffer, within receiveTimeout.
func (c *Conn) datagram(ctx context.Context, buffer []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, err := c.receiveBounded(buffer)
	for errors.Is(err, unix.EAGAIN) {
		if err = c.transport.wait(ctx); err == nil {
			n, err = c.receiveBounded(buffer)
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("receive reply: %w", err)
	case n > len(buffer):
		return nil, fmt.Errorf("receive reply: datagram of %d bytes exceeds buffer of %d", n, len(buffer))
	}
	return buffer[:n], nil
}

// redial replaces the netlink socket, and with it the rest of an abandoned reply.
func (c *Conn) redial() error {
	old := c.transport
	if err := c.dial(); err != nil {
		return redialError{err}
	}
	if old == nil {
		return nil
	}
	return old.close()
}

// redialError is an error of redial. It does not match os.ErrNotExist: if the namespace
// cannot be entered any more, its sockets may still exist.
type redialError struct{ err error }

func (e redialError) Error() string { return e.err.Error() }
func (e redialError) Is(target error) bool {
	return target != os.ErrNotExist && errors.Is(e.err, target)
}
