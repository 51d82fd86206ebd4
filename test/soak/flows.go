package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"tcphup/sockdiag"
)

// flows returns the idle times of the established flows to a destination by cookie. Flows
// that lack the evidence of the destination's policy are skipped.
func (d *destination) flows(ctx context.Context) (map[uint64]time.Duration, error) {
	conn, err := sockdiag.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	q := sockdiag.Query{
		States:   sockdiag.States(sockdiag.Established),
		Selector: &sockdiag.Selector{Destinations: []netip.Prefix{netip.PrefixFrom(d.address.Addr(), d.address.Addr().BitLen())}},
		Info:     true,
	}
	if d.kind == mptcp {
		q.Protocol = sockdiag.MPTCP
	}
	found := make(map[uint64]time.Duration)
	for f, err := range conn.Flows(ctx, q) {
		if err != nil {
			return nil, fmt.Errorf("read flows to %v: %w", d, err)
		}
		if idle, known := f.Idle(); f.Remote == d.address && !f.ShutDown && (d.idle == 0 || known && idle >= d.idle) {
			found[f.Cookie] = idle
		}
	}
	return found, nil
}

// left counts the flows of an earlier dump, begun after since, that are still open. With
// idle evidence, flows with data after since do not count.
func (d *destination) left(ctx context.Context, earlier map[uint64]time.Duration, since time.Time) (int, error) {
	begun := time.Now()
	now, err := d.flows(ctx)
	count := 0
	for cookie := range earlier {
		if idle, open := now[cookie]; open && (d.idle == 0 || idle >= begun.Sub(since)) {
			count++
		}
	}
	return count, err
}

// listeners returns the addresses of all listening sockets by cookie.
func listeners(ctx context.Context) (map[uint64]netip.AddrPort, error) {
	conn, err := sockdiag.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	found := make(map[uint64]netip.AddrPort)
	for f, err := range conn.Flows(ctx, sockdiag.Query{States: sockdiag.States(sockdiag.Listen)}) {
		if err != nil {
			return nil, fmt.Errorf("read listeners: %w", err)
		}
		found[f.Cookie] = f.Local
	}
	return found, nil
}
