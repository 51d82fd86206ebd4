// Package collector shows the TCP and MPTCP sockets of a network namespace as
// Prometheus metrics: what goes to each destination, how long it has been idle,
// and what has stalled.
//
// A scrape reads every socket once and adds it to the group of its destination
// as it comes. Sockets are not kept; memory grows with the destinations, which
// are bounded, and by a few words for each outbound flow, to know its age.
package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/internal/exposition"
	"tcphup/sockdiag"
)

// Defaults of Config.
const (
	DefaultMaxDestinations = 500
	DefaultTimeout         = 10 * time.Second
)

// Config says what a Collector shows. The zero Config is usable.
type Config struct {
	// Logger is told when sockets cannot be read; nil means silence.
	Logger *slog.Logger
	// MaxDestinations bounds the values of the label destination (with its port),
	// and those of the label port of inbound sockets; 0 means
	// DefaultMaxDestinations. What is more than that is counted together as other.
	MaxDestinations int
	// PrefixLengthV4 and PrefixLengthV6 widen a destination to all addresses that
	// share so many leading bits; 0 means none: each address by itself.
	PrefixLengthV4, PrefixLengthV6 int
	// Include holds the addresses that are shown as destinations; none means all.
	// Exclude holds those that are not, and wins. Flows to an address that is left
	// out appear nowhere, not even under other.
	Include, Exclude []netip.Prefix
	// Pinned reports whether a destination, one address or a whole prefix of them,
	// must be shown however few its flows are, because something of the
	// configuration names it. Pinned destinations count towards MaxDestinations,
	// which holds even when there are more of them. It is called during scrapes,
	// for each destination or, with very many of them, each flow, and must be fast;
	// nil means none.
	Pinned func(addresses netip.Prefix, port uint16) bool
	// Observer is shown the flows of each pass and adds to its metrics; nil means
	// that nobody is.
	Observer Observer
	// Timeout bounds a scrape that says nothing about its own deadline; 0 means
	// DefaultTimeout.
	Timeout time.Duration
}

// Observer looks on while flows are read, so that nobody has to read them twice.
type Observer interface {
	// Observe begins a pass; there is one at a time. see is called for each outbound
	// TCP flow, subflows and those that Include and Exclude leave out among them, but
	// not for what is in TIME_WAIT, nor for the subflows of an MPTCP connection that
	// this side has closed; it must be fast and must not keep the flow. done is
	// called after the last one and not at all when flows are missing; its metrics
	// become part of the scrape.
	Observe() (see func(*sockdiag.Flow), done func() []prometheus.Metric)
}

// Collector serves metrics and flows. Its methods may be called concurrently.
type Collector struct {
	logger  *slog.Logger
	timeout time.Duration
	encoder *exposition.Encoder[*result]
	shared  shared

	// What belongs to the pass that is under way.
	fold  *fold
	conn  source         // nil: none is open
	table sockdiag.Table // keeps its memory and what it has found out of MPTCP connections

	observer Observer

	// What a pass takes from the world around it.
	dial           func() (source, error)
	ephemeralPorts func() (sockdiag.PortRange, error)
	now            func() time.Time
}

// New returns a Collector for the network namespace that scrapes find themselves in:
// it opens a connection there when it has none, and keeps it as long as nothing goes
// wrong. It reads nothing yet.
func New(config Config) (*Collector, error) {
	f := folder{include: config.Include, exclude: config.Exclude, bits4: config.PrefixLengthV4, bits6: config.PrefixLengthV6}
	if f.bits4 == 0 {
		f.bits4 = 32
	}
	if f.bits6 == 0 {
		f.bits6 = 128
	}
	limit := config.MaxDestinations
	if limit == 0 {
		limit = DefaultMaxDestinations
	}
	timeout := config.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	switch {
	case limit < 0:
		return nil, fmt.Errorf("configure collector: %d destinations", limit)
	case f.bits4 < 0 || f.bits4 > 32:
		return nil, fmt.Errorf("configure collector: IPv4 prefix length %d", f.bits4)
	case f.bits6 < 0 || f.bits6 > 128:
		return nil, fmt.Errorf("configure collector: IPv6 prefix length %d", f.bits6)
	case timeout < 0:
		return nil, fmt.Errorf("configure collector: timeout %v", timeout)
	}
	for _, p := range append(config.Include[:len(config.Include):len(config.Include)], config.Exclude...) {
		if !p.IsValid() {
			return nil, errors.New("configure collector: invalid prefix among the included or excluded ones")
		}
	}
	pinned := func(netip.AddrPort) bool { return false }
	if config.Pinned != nil {
		pinned = func(d netip.AddrPort) bool { return config.Pinned(f.prefix(d.Addr()), d.Port()) }
	}
	logger := config.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Collector{
		logger:         logger,
		timeout:        timeout,
		encoder:        exposition.NewEncoder(families()),
		fold:           newFold(f, limit, pinned, time.Now),
		dial:           func() (source, error) { return sockdiag.Dial() },
		observer:       config.Observer,
		ephemeralPorts: sockdiag.EphemeralPorts,
		now:            time.Now,
	}, nil
}

// collect returns the result of a pass that it may share with other scrapes. If ctx
// ends before the pass, the result is that failure.
func (c *Collector) collect(ctx context.Context) *result {
	start := c.now()
	r, err := c.shared.do(ctx, c.pass)
	if err != nil {
		failed := reading{err: err, took: c.now().Sub(start)}
		return &result{tcp: failed, mptcp: failed}
	}
	return r
}

// FirstSeen returns when the flow, a TCP socket or an MPTCP connection, was first
// seen by a scrape after its handshake. It reports false for inbound flows and
// for those that no scrape has seen, or the last one no more.
func (c *Collector) FirstSeen(f *sockdiag.Flow) (time.Time, bool) {
	if f.Protocol == sockdiag.MPTCP {
		return c.fold.mptcp.firstSeen(f)
	}
	return c.fold.tcp.firstSeen(f)
}
