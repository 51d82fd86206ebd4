// Package services watches the host names of services and keeps their current and former
// addresses. After a failover, stale flows lead to a former address.
//
// Names are looked up periodically with the system's resolver settings, separately for each
// address family. A failed lookup keeps the addresses of its family and does not delay the
// other family. Addresses and metrics never wait for a lookup.
package services

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tcphup/internal/boottime"
	"tcphup/sockdiag"
)

// Defaults of Service.
const (
	DefaultSettle   = time.Minute
	DefaultInterval = 15 * time.Second
)

// Config configures a Watcher. The zero Config is valid and has no services.
type Config struct {
	// Logger receives address changes and lookup failures; nil discards them.
	Logger *slog.Logger
	// Services are the names to watch; each must be unique.
	Services []Service
	// StateDirectory is the directory of StateFile, which keeps the addresses across
	// restarts; empty disables it. A damaged or unsafe file (safefile.Check) is renamed to
	// StateFile.damaged.
	StateDirectory string
	// FirstSeen returns the time of the first scan with the flow, and false for an unknown
	// flow. It identifies the flows to an address that several services have had; nil means
	// that they are unknown, and never stale.
	FirstSeen func(*sockdiag.Flow) (time.Time, bool)
	// EstablishedAfter reports false for a flow that may be of any age, because the first
	// complete scan of its network namespace has seen it. It is called for flows of other
	// namespaces only (sockdiag.Flow.Netns). nil means that all of them may be.
	EstablishedAfter func(*sockdiag.Flow) (time.Time, bool)
}

// Service is a name to watch.
type Service struct {
	// Name is a host name. A name that starts with _LABEL._tcp. is looked up as SRV
	// (RFC 2782) and has the addresses of all targets.
	Name string
	// Port is the port of the service; 0 watches the addresses only and counts no flows.
	// Otherwise only SRV records with this port are used.
	Port uint16
	// Resolver is the address of the name server; the zero value means the system's resolver
	// settings. With a Resolver, the name is looked up without the search list, and a name in
	// /etc/hosts is an error.
	Resolver netip.AddrPort
	// Settle is how long an address must be missing from the responses to become former;
	// 0 means DefaultSettle.
	Settle time.Duration
	// Interval is the time between lookups while no address is missing, and the maximum
	// time between a failed lookup and the next; 0 means DefaultInterval.
	Interval time.Duration
}

// Watcher watches names. It is safe for concurrent use, and only Run waits for the network.
type Watcher struct {
	logger  *slog.Logger
	keep    time.Duration
	state   stateFile
	metrics descs
	lookup  func(context.Context, Service, family) ([]netip.Addr, error)

	firstSeen, establishedAfter func(*sockdiag.Flow) (time.Time, bool)

	boottime func() time.Duration // time since boot

	wake chan struct{} // a lookup may be due earlier than Run's timer

	mu         sync.Mutex
	watches    map[string]*watch
	running    [len(families)]int // running lookups
	dirty      bool               // the state differs from the file
	lastNoted  time.Time          // last time flows set dirty
	saveFailed bool               // the last write failed

	flows atomic.Pointer[flowIndex] // destinations of services; nil when outdated
}

type watch struct {
	service  Service
	history  history
	lookups  [len(families)]lookupState
	lookedUp time.Time // end of the last lookup; zero before the first
	phase    float64   // fraction of the interval before the second lookup
	pods     []PodSockets
}

// lookupState is the state of the lookups of a name in one family.
type lookupState struct {
	due             time.Time // next lookup
	running         bool
	total, failures uint64
	consecutive     int   // consecutive failures
	err             error // result of the last lookup
}

// due returns when the next lookup in one of the families is due; false if lookups in all
// of them are running.
func (k *watch) due(in [len(families)]bool) (due time.Time, ok bool) {
	for f := range k.lookups {
		if l := &k.lookups[f]; in[f] && !l.running && (!ok || l.due.Before(due)) {
			due, ok = l.due, true
		}
	}
	return due, ok
}

// New returns a Watcher with the addresses of the state file. It does no lookups, which
// Run does. An unreadable state file is logged and is not an error.
func New(c Config) (*Watcher, error) {
	w := &Watcher{
		logger:  cmp.Or(c.Logger, slog.New(slog.DiscardHandler)),
		keep:    keepFormer,
		state:   stateIn(c.StateDirectory),
		metrics: newDescs(),
		lookup:  lookup,

		firstSeen:        c.FirstSeen,
		establishedAfter: c.EstablishedAfter,
		boottime:         boottime.Now,
		wake:             make(chan struct{}, 1),
		watches:          make(map[string]*watch),
	}
	unknown := func(*sockdiag.Flow) (time.Time, bool) { return time.Time{}, false }
	if w.firstSeen == nil {
		w.firstSeen = unknown
	}
	if w.establishedAfter == nil {
		w.establishedAfter = unknown
	}
	if err := w.Reload(c.Services); err != nil {
		return nil, err
	}
	w.load()
	return w, nil
}

// Reload replaces the services. A name that was watched before keeps its addresses, unless
// its Resolver is another one: an address that only the old one returns is not a former
// address. On an error the old services stay.
func (w *Watcher) Reload(services []Service) error {
	seen := make(map[string]bool)
	for _, s := range services {
		if s.Name == "" || s.Settle < 0 || s.Interval < 0 || seen[canonical(s.Name)] {
			return fmt.Errorf("configure service %q: name must be unique, durations must not be negative", s.Name)
		}
		seen[canonical(s.Name)] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.watches {
		if !seen[name] {
			delete(w.watches, name)
			w.dirty = true
		}
	}
	for _, s := range services {
		entry := w.watches[canonical(s.Name)]
		if entry == nil || entry.service.Resolver != s.Resolver {
			w.dirty = w.dirty || entry != nil
			entry = &watch{phase: rand.Float64()}
			w.watches[canonical(s.Name)] = entry
		}
		s.Settle, s.Interval = cmp.Or(s.Settle, DefaultSettle), cmp.Or(s.Interval, DefaultInterval)
		entry.service, entry.history.settle = s, s.Settle
	}
	w.flows.Store(nil)
	w.wakeUp()
	return nil
}

// Addresses returns the current and the former addresses of the name, both sorted; nil for
// a name that is not watched. Families without a successful lookup since the start are
// excluded: the state file may be outdated. IPv4-mapped addresses are returned as IPv4.
func (w *Watcher) Addresses(name string) (current, former []netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if entry := w.watches[canonical(name)]; entry != nil {
		return entry.history.answers()
	}
	return nil, nil
}

// Pinned reports whether the prefix includes a current or former address of a service with
// this port; a service without a port matches every port. It is cheap enough to call for
// every flow.
func (w *Watcher) Pinned(addresses netip.Prefix, port uint16) bool {
	index := w.flowIndex()
	if len(index.endpoints) == 0 {
		return false
	}
	prefixes := index.truncated(addresses.Bits())
	return prefixes[netip.AddrPortFrom(addresses.Addr(), port)] || prefixes[netip.AddrPortFrom(addresses.Addr(), 0)]
}

// wakeUp makes Run check for due lookups.
func (w *Watcher) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// sorted returns the watched names, sorted. w.mu must be held.
func (w *Watcher) sorted() []string { return slices.Sorted(maps.Keys(w.watches)) }

// canonical returns the name in lower case: DNS names are case-insensitive (RFC 4343).
func canonical(name string) string { return strings.ToLower(name) }
