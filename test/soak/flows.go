package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"tcphup/sockdiag"
)

// flows returns the idle times of the established flows to a destination in some places, by
// cookie: cookies are unique across network namespaces. Flows that lack the evidence of the
// destination's policy are skipped.
func (s *soak) flows(ctx context.Context, d *destination, places []int) (map[uint64]time.Duration, error) {
	found := make(map[uint64]time.Duration)
	for _, i := range places {
		if err := s.places[i].addFlows(ctx, d, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (p *place) addFlows(ctx context.Context, d *destination, found map[uint64]time.Duration) error {
	conn, err := p.dial()
	if err != nil {
		return err
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
	for f, err := range conn.Flows(ctx, q) {
		if err != nil {
			return fmt.Errorf("read flows to %v: %w", d, err)
		}
		if idle, known := f.Idle(); f.Remote == d.address && !f.ShutDown && (d.idle == 0 || known && idle >= d.idle) {
			found[f.Cookie] = idle
		}
	}
	return nil
}

// left counts the flows of an earlier dump, begun after since, that are still open. With
// idle evidence, flows with data after since do not count.
func (s *soak) left(ctx context.Context, d *destination, places []int, earlier map[uint64]time.Duration, since time.Time) (int, error) {
	begun := time.Now()
	now, err := s.flows(ctx, d, places)
	count := 0
	for cookie := range earlier {
		if idle, open := now[cookie]; open && (d.idle == 0 || idle >= begun.Sub(since)) {
			count++
		}
	}
	return count, err
}

// listeners returns the addresses of all listening sockets of all places by cookie.
func (s *soak) listeners(ctx context.Context) (map[uint64]netip.AddrPort, error) {
	found := make(map[uint64]netip.AddrPort)
	for _, p := range s.places {
		if err := p.addListeners(ctx, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (p *place) addListeners(ctx context.Context, found map[uint64]netip.AddrPort) error {
	conn, err := p.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	for f, err := range conn.Flows(ctx, sockdiag.Query{States: sockdiag.States(sockdiag.Listen)}) {
		if err != nil {
			return fmt.Errorf("read listeners: %w", err)
		}
		found[f.Cookie] = f.Local
	}
	return nil
}
