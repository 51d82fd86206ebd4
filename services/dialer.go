package services

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
)

// Response codes of DNS messages (RFC 1035 and 2136).
const (
	codeSuccess        = 0
	codeFormatError    = 1
	codeServerFailure  = 2
	codeNameError      = 3
	codeNotImplemented = 4
	codeRefused        = 5
)

// dialer dials name servers for one lookup. After every error response except SERVFAIL,
// package net continues with the next name of the search list: the "not found" of that name
// would hide that a server refuses AAAA queries. Connections of a dialer therefore change
// all error responses except NXDOMAIN to SERVFAIL.
type dialer struct {
	server   netip.AddrPort // Service.Resolver
	code     atomic.Int32   // response code of the last error; 0 without one
	answered atomic.Bool    // a response had records
}

// resolver returns a resolver for one lookup with the server, or else with the servers of
// /etc/resolv.conf.
func (d *dialer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, StrictErrors: true, Dial: d.dial}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if d.server.IsValid() {
		address = d.server.String()
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if packets, ok := conn.(*net.UDPConn); ok {
		return &packetConn{packets, d}, nil
	}
	return &streamConn{Conn: conn, dialer: d, reader: bufio.NewReader(conn)}, nil
}

// headerSize is the size of a DNS header in bytes (RFC 1035, section 4.1.1).
const headerSize = 12

// check changes the response code in the header of a message. A referral, an empty response
// from a server that is neither recursive nor authoritative, counts as an error.
func (d *dialer) check(header []byte) {
	if len(header) < headerSize {
		return
	}
	code := header[3] & 0x0f
	authoritative, recursive := header[2]&0x04 != 0, header[3]&0x80 != 0
	empty := binary.BigEndian.Uint16(header[6:]) == 0
	referral := !authoritative && !recursive && empty
	if code == codeNameError || code == codeSuccess && !referral {
		if !empty {
			d.answered.Store(true)
		}
		return
	}
	d.code.Store(int32(code))
	header[3] = header[3]&0xf0 | codeServerFailure
}

// packetConn is a UDP connection. Package net detects it by the embedded net.PacketConn.
type packetConn struct {
	*net.UDPConn
	dialer *dialer
}

func (c *packetConn) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	c.dialer.check(b[:n])
	return n, err
}

// streamConn is a TCP connection for one response.
type streamConn struct {
	net.Conn
	dialer *dialer
	reader *bufio.Reader
	begun  bool
}

func (c *streamConn) Read(b []byte) (int, error) {
	if !c.begun {
		c.begun = true
		// Two bytes of length precede the message (RFC 1035, section 4.2.2).
		if head, err := c.reader.Peek(2 + headerSize); err == nil {
			c.dialer.check(head[2:])
		}
	}
	return c.reader.Read(b)
}

// explain adds a reason to the error of a lookup.
func (d *dialer) explain(err error) error {
	var dnsErr *net.DNSError
	var addrErr *net.AddrError
	code := d.code.Load()
	if errors.As(err, &dnsErr) && d.server.IsValid() {
		// Package net names a server of /etc/resolv.conf.
		named := *dnsErr
		named.Server = d.server.String()
		err = &named
	}
	switch {
	case errors.As(err, &addrErr) && d.answered.Load():
		return fail("no suitable address", "lookup %s: all AAAA records are IPv4-mapped addresses", addrErr.Addr)
	case errors.As(err, &addrErr):
		return fail(notFound, "lookup %s: /etc/hosts has addresses of the other family only", addrErr.Addr)
	case !errors.As(err, &dnsErr):
		return err
	case dnsErr.IsNotFound && d.server.IsValid():
		return fail(notFound, "%w (with a resolver, the search list is not used)", err)
	case dnsErr.IsNotFound:
		return fail(notFound, "%w", err)
	case dnsErr.IsTimeout:
		return fail("timeout", "%w", err)
	case code == codeFormatError || code == codeNotImplemented:
		return fail(codeName(code), "%w: %s: server may not support EDNS or the query type", err, codeName(code))
	case code != codeSuccess:
		return fail(codeName(code), "%w: %s", err, codeName(code))
	default:
		return fail("exchange", "%w", err)
	}
}

func codeName(code int32) string {
	names := map[int32]string{
		codeFormatError: "FORMERR", codeServerFailure: "SERVFAIL", codeNotImplemented: "NOTIMP", codeRefused: "REFUSED",
	}
	return cmp.Or(names[code], fmt.Sprintf("response code %d", code))
}
