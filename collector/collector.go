// Package collector exports the TCP and MPTCP sockets of a network namespace, or of those of
// the pods of a node, as Prometheus metrics: the number of sockets per destination, their idle
// time, and stalled connections.
//
// A scrape streams one dump of all sockets into an aggregate per destination and buffers
// no sockets. Memory grows with the number of destinations, which is limited, and by
// a few words per outbound flow for its age.
//
// Reading needs no capability. A kernel without MPTCP has no metrics of it. The scrape of
// MPTCP fails if the kernel has MPTCP but not the module mptcp_diag. Some kernels report
// the backup flag of subflows to CAP_NET_ADMIN only.
package collector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/internal/boottime"
	"tcphup/internal/exposition"
	"tcphup/sockdiag"
)

// DefaultMaxDestinations is the default of Config.MaxDestinations.
const DefaultMaxDestinations = 500

// Config configures a Collector. The zero value is ready to use.
type Config struct {
	// Logger receives errors of scrapes; nil discards them.
	Logger *slog.Logger
	// MaxDestinations limits the number of destinations (address and port) with series of
	// their own, and the number of inbound ports; 0 means DefaultMaxDestinations, or
	// DefaultMaxNodeDestinations with Node. The rest is summed up as other.
	MaxDestinations int
	// PrefixLengthV4 and PrefixLengthV6 aggregate destinations by prefix; 0 means single
	// addresses.
	PrefixLengthV4, PrefixLengthV6 int
	// Include restricts the destinations to these prefixes; empty means all. Exclude
	// removes prefixes and takes precedence. Flows to other addresses appear in no metric,
	// not even under other.
	Include, Exclude []netip.Prefix
	// Histograms are the histograms of each destination; nil means IdleHistogram only, and
	// an empty slice none.
	Histograms []Histogram
	// Pinned reports whether to keep a destination regardless of its number of flows, for
	// example because the configuration names it. addresses is a single address or a
	// prefix. MaxDestinations applies to pinned destinations too. Scrapes call Pinned for
	// each destination, or for each flow if there are very many, so it must be fast. nil
	// pins no destination.
	Pinned func(addresses netip.Prefix, port uint16) bool
	// Observer receives the flows of each scan and adds metrics; nil disables it. With Node
	// it must be nil; see NodeConfig.Observer.
	Observer Observer
	// StateDirectory is the directory of the file that keeps the first-seen times of flows
	// over a restart; empty disables it. Run writes the file. It has no effect with Node.
	StateDirectory string
	// Node reads the network namespaces of pods in place of the own one; nil disables it.
	Node *NodeConfig
}

// Observer receives the flows of each scan, so that it needs no dump of its own.
type Observer interface {
	// Observe begins a scan. Scans do not overlap. The Collector calls observe for each
	// outbound TCP flow. That includes subflows and flows that Include or Exclude leaves
	// out. It excludes TIME_WAIT, and the subflows of MPTCP connections that the local side
	// has closed. observe must be fast and must not keep the flow. The Collector calls done
	// after a complete dump of TCP only. The returned metrics become part of the scrape.
	Observe() (observe func(*sockdiag.Flow), done func() []prometheus.Metric)
}

// Collector serves metrics and flows. Its methods may be called concurrently.
type Collector struct {
	logger  *slog.Logger
	timeout time.Duration // of a scrape without timeoutHeader
	encoder *exposition.Encoder[*result]
	scans   singleflight
	// snapshots counts the waiting callers of Snapshot, whose scan lists the idle times.
	snapshots atomic.Int32

	reader                // of the running scan
	table  sockdiag.Table // reused, with its cache of MPTCP connections

	observer Observer
	own      *namespaceState // nil with Config.Node
	state    firstSeenFile
	node     *node // nil without Config.Node

	newAggregator func() *aggregator
}

// New returns a Collector for the network namespace of the scraping thread, or for those of
// Config.Node. It fails for an invalid Config. The first scrape opens a netlink connection,
// which stays open until an error. With Config.Node nothing stays open between scrapes.
func New(config Config) (*Collector, error) {
	m := destinationMapper{
		include: config.Include, exclude: config.Exclude,
		bits4: cmp.Or(config.PrefixLengthV4, 32), bits6: cmp.Or(config.PrefixLengthV6, 128),
	}
	limit := cmp.Or(config.MaxDestinations, DefaultMaxDestinations)
	if config.Node != nil {
		limit = cmp.Or(config.MaxDestinations, DefaultMaxNodeDestinations)
	}
	switch {
	case limit < 0:
		return nil, fmt.Errorf("configure collector: negative maximum of destinations: %d", limit)
	case m.bits4 < 0 || m.bits4 > 32:
		return nil, fmt.Errorf("configure collector: invalid IPv4 prefix length: %d", m.bits4)
	case m.bits6 < 0 || m.bits6 > 128:
		return nil, fmt.Errorf("configure collector: invalid IPv6 prefix length: %d", m.bits6)
	}
	for _, p := range slices.Concat(config.Include, config.Exclude) {
		if !p.IsValid() {
			return nil, errors.New("configure collector: invalid included or excluded prefix")
		}
	}
	histograms := config.Histograms
	if histograms == nil {
		histograms = []Histogram{IdleHistogram}
	}
	for _, h := range histograms {
		if !slices.Contains(Histograms(), h) {
			return nil, fmt.Errorf("configure collector: unknown histogram: %q", h)
		}
	}
	pinned := func(netip.AddrPort) bool { return false }
	if config.Pinned != nil {
		pinned = func(d netip.AddrPort) bool { return config.Pinned(m.prefix(d.Addr()), d.Port()) }
	}
	c := &Collector{
		logger:  cmp.Or(config.Logger, slog.New(slog.DiscardHandler)),
		timeout: 10 * time.Second,
		encoder: exposition.NewEncoder(families(histograms, config.Node != nil)),
		reader: reader{
			ahead:          true,
			dial:           func(uint64) (source, error) { return sockdiag.Dial() },
			ephemeralPorts: sockdiag.EphemeralPorts,
			mptcpInUse:     new(sockdiag.MPTCPUsage).InUse,
			now:            time.Now,
		},
	}
	if config.Node != nil {
		var err error
		if c.node, err = newNode(config, limit); err != nil {
			return nil, err
		}
		c.reader = *newPodReader()
		c.newAggregator = func() *aggregator { return newAggregator(m, c.node.MaxDestinationsPerPod, pinned) }
		c.aggregator, c.node.reader = c.newAggregator(), &c.reader
		return c, nil
	}
	c.aggregator = newAggregator(m, limit, pinned)
	c.observer, c.own, c.state = config.Observer, newNamespaceState(limit, boottime.Now), firstSeenFileIn(config.StateDirectory)
	c.loadFirstSeen()
	return c, nil
}

// collect returns the result of a scan, which may be shared with other scrapes. If ctx
// ends first, the result holds its cause as the error of both protocols.
func (c *Collector) collect(ctx context.Context) *result {
	start := c.now()
	r, err := c.sharedScan(ctx)
	if err != nil {
		failed := sourceResult{err: err, took: c.now().Sub(start)}
		return &result{tcp: failed, mptcp: failed}
	}
	return r
}

// firstSeenOf returns the table of the first-seen times for a flow; nil without one.
func (c *Collector) firstSeenOf(f *sockdiag.Flow) *firstSeenTable {
	state := c.own
	if c.node != nil {
		state = c.node.stateOf(f.Netns)
	}
	if state == nil {
		return nil
	}
	return state.firstSeen(f)
}

// FirstSeen returns when a scrape first saw the flow, a TCP socket or an MPTCP
// connection, after its handshake. It reports false for inbound flows, for flows that
// no scrape has seen, and for flows that the last complete scrape of their namespace has not
// seen. Compare the age (time.Since), which a change of the wall clock does not affect.
func (c *Collector) FirstSeen(f *sockdiag.Flow) (time.Time, bool) {
	table := c.firstSeenOf(f)
	if table == nil {
		return time.Time{}, false
	}
	age, known := table.age(f)
	if !known {
		return time.Time{}, false
	}
	return c.now().Add(-age), true
}

// EstablishedAfter returns a time before an outbound flow was established: when a scrape
// first saw it, or the start of the last complete scrape without it. It reports false for a
// flow that the first complete scrape of its namespace saw, because it may be of any age, and
// for excluded destinations.
func (c *Collector) EstablishedAfter(f *sockdiag.Flow) (time.Time, bool) {
	table := c.firstSeenOf(f)
	if table == nil {
		return time.Time{}, false
	}
	youth, known := table.youth(f)
	if _, observed := c.aggregator.mapper.destination(f.Remote); !known || !observed {
		return time.Time{}, false
	}
	return c.now().Add(-youth), true
}
