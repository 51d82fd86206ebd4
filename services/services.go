// Package services watches the names of services: which addresses a name has
// now, and which it had before. A flow to a former address is what a failover
// leaves behind.
//
// A name is looked up again and again, as the system's resolver would: in
// /etc/hosts, then in the DNS by resolv.conf. Lookups run beside everything else;
// nothing that asks for addresses or metrics ever waits for one.
package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config and Service.
const (
	DefaultSettle   = time.Minute
	DefaultKeep     = 24 * time.Hour
	DefaultInterval = 30 * time.Second
)

// Config says what a Watcher watches. The zero Config is usable and watches
// nothing.
type Config struct {
	// Logger is told of changes and of lookups that begin to fail; nil means
	// silence.
	Logger *slog.Logger
	// Services are the names to watch, each once.
	Services []Service
	// StateFile keeps what is known over a restart; empty means that nothing is
	// kept. A file that cannot be read as state, or that others may change
	// (safefile.Check), is renamed to StateFile.damaged.
	StateFile string
	// Keep is how long an address stays former after its last flow was seen; 0
	// means DefaultKeep. Without anybody who looks at flows (see Sockets) nothing is
	// forgotten.
	Keep time.Duration
	// Interval is how long an answer without a lifetime of its own, from /etc/hosts,
	// is good for, and how long it takes at most from a failed lookup to the next; 0
	// means DefaultInterval.
	Interval time.Duration
}

// Service is a name to watch.
type Service struct {
	// Name is a host name. One with _LABEL._tcp. in front is looked up as SRV and
	// stands for the addresses of every target.
	Name string
	// Port is where the service is reached; 0 means that only the addresses are of
	// interest, and no flows are counted. Of SRV records with a port, only those with
	// this one count.
	Port uint16
	// Settle is how long an address must be gone from the answers before it is
	// former; 0 means DefaultSettle.
	Settle time.Duration
}

// Watcher watches names. Its methods may be called concurrently, and none but
// Run waits for the network.
type Watcher struct {
	logger         *slog.Logger
	keep, interval time.Duration
	state          stateFile
	metrics        descs

	// What a Watcher takes from the world around it: a lookup, and whether the
	// settings that lookups go by have changed since the last call.
	lookup  func(context.Context, Service) (answer, error)
	changed func() bool

	wake chan struct{} // something may be due earlier than Run thinks

	mu      sync.Mutex
	watches map[string]*watch
	running int       // lookups under way
	dirty   bool      // the state is not the one in the file
	noted   time.Time // when flows last made it so
	unsaved bool      // it could not be written

	flows atomic.Pointer[flowIndex] // where flows of services lead; nil when out of date
}

// watch is one watched name.
type watch struct {
	service Service
	history history
	due     time.Time // of the next lookup
	running bool

	lookups, failures uint64
	looked            time.Time // when the last lookup ended; zero: there was none
	err               error     // why it failed; nil when it did not
	inARow            int       // failures since the last that did not
}

// New returns a Watcher with what its state file holds. It looks nothing up
// before Run does.
func New(c Config) (*Watcher, error) {
	resolver := newSystem("/etc/hosts", "/etc/resolv.conf")
	w := &Watcher{
		logger:   c.Logger,
		keep:     orDefault(c.Keep, DefaultKeep),
		interval: orDefault(c.Interval, DefaultInterval),
		state:    stateFile(c.StateFile),
		metrics:  newDescs(),
		lookup:   resolver.lookup,
		changed:  resolver.changed,
		wake:     make(chan struct{}, 1),
		watches:  make(map[string]*watch),
	}
	if w.logger == nil {
		w.logger = slog.New(slog.DiscardHandler)
	}
	if w.keep < 0 || w.interval < 0 {
		return nil, errors.New("configure services: durations must not be negative")
	}
	if err := w.Reload(c.Services); err != nil {
		return nil, err
	}
	w.load()
	return w, nil
}

// Reload watches these services from now on. What is known of a name that was
// watched before stays known; on an error everything stays as it was.
func (w *Watcher) Reload(services []Service) error {
	seen := make(map[string]bool)
	for _, s := range services {
		if s.Name == "" || s.Settle < 0 || seen[canonical(s.Name)] {
			return fmt.Errorf("configure service %q: needs a name of its own and a settle time that is not negative", s.Name)
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
	now := time.Now()
	for _, s := range services {
		known := w.watches[canonical(s.Name)]
		if known == nil {
			known = &watch{due: now}
			w.watches[canonical(s.Name)] = known
		}
		s.Settle = orDefault(s.Settle, DefaultSettle)
		known.service, known.history.settle = s, s.Settle
	}
	w.flows.Store(nil)
	w.wakeUp()
	return nil
}

// Addresses returns the addresses that the name has now and those that it had
// before and has no more, both sorted; none for a name that is not watched or was
// not found since the start: what a state file says of it may be out of date.
// IPv4-mapped addresses are IPv4 ones.
func (w *Watcher) Addresses(name string) (current, former []netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known := w.watches[canonical(name)]; known != nil && known.lookups > known.failures {
		return known.history.list()
	}
	return nil, nil
}

// Pinned reports whether a watched service has, or had, one of the addresses and
// this port; a name without a port of its own has every port. It is fast enough to be
// asked for each flow.
func (w *Watcher) Pinned(addresses netip.Prefix, port uint16) bool {
	index := w.flowIndex()
	if len(index.everywhere) == 0 {
		return false
	}
	pins := index.pinned(addresses.Bits())
	_, ok := pins[netip.AddrPortFrom(addresses.Addr(), port)]
	if !ok {
		_, ok = pins[netip.AddrPortFrom(addresses.Addr(), 0)]
	}
	return ok
}

// wakeUp lets Run look again at what is due.
func (w *Watcher) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// sorted returns the watched names in order. w.mu must be held.
func (w *Watcher) sorted() []string {
	names := make([]string, 0, len(w.watches))
	for name := range w.watches {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// canonical is how a name is known: DNS does not tell cases apart.
func canonical(name string) string { return strings.ToLower(name) }

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}
