// Package services watches the names of services: which addresses a name has
// now, and which it had before. A flow to a former address is what a failover
// leaves behind.
//
// Names are looked up periodically by the system's resolver settings, in each address
// family separately: a failed lookup of one family changes nothing in that family and
// does not delay the other. Addresses and metrics never wait for a lookup.
package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	DefaultInterval = 15 * time.Second
)

// Config says what a Watcher watches. The zero Config is usable and watches
// nothing.
type Config struct {
	// Logger is told of changes and of lookups that begin to fail; nil means
	// silence.
	Logger *slog.Logger
	// Services are the names to watch, each once.
	Services []Service
	// StateDirectory has the file StateFile, which keeps the addresses over a restart;
	// empty disables it. A file that cannot be read as state, or that others may change
	// (safefile.Check), is renamed to StateFile.damaged.
	StateDirectory string
	// Keep is how long an address stays former after its last flow was seen; 0
	// means DefaultKeep. Without anybody who looks at flows (see Sockets) nothing is
	// forgotten.
	Keep time.Duration
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
	// Interval is the time between lookups while no address is missing, and the longest
	// time from a failed lookup to the next; 0 means DefaultInterval.
	Interval time.Duration
}

// Watcher watches names. Its methods may be called concurrently, and none but
// Run waits for the network.
type Watcher struct {
	logger  *slog.Logger
	keep    time.Duration
	state   stateFile
	metrics descs
	lookup  func(context.Context, Service, family) ([]netip.Addr, error)

	wake chan struct{} // something may be due earlier than Run thinks

	mu      sync.Mutex
	watches map[string]*watch
	running [len(families)]int // lookups under way
	dirty   bool               // the state is not the one in the file
	noted   time.Time          // when flows last made it so
	unsaved bool               // it could not be written

	flows atomic.Pointer[flowIndex] // where flows of services lead; nil when out of date
}

// watch is one watched name.
type watch struct {
	service  Service
	history  history
	lookups  [len(families)]lookupState
	lookedUp time.Time // when the last lookup ended; zero: there was none
	phase    float64   // random part of the interval after the first lookup
}

// lookupState is the state of the lookups of one name in one family.
type lookupState struct {
	due             time.Time // of the next
	running         bool
	total, failures uint64
	inARow          int   // failures since the last success
	err             error // of the last; nil if it succeeded
}

// due returns when the next lookup in one of these families is due; false if lookups of
// all of them run.
func (k *watch) due(in [len(families)]bool) (due time.Time, ok bool) {
	for f := range k.lookups {
		if l := &k.lookups[f]; in[f] && !l.running && (!ok || l.due.Before(due)) {
			due, ok = l.due, true
		}
	}
	return due, ok
}

// New returns a Watcher with what its state file holds. It looks nothing up
// before Run does.
func New(c Config) (*Watcher, error) {
	w := &Watcher{
		logger:  c.Logger,
		keep:    cmp.Or(c.Keep, DefaultKeep),
		state:   stateIn(c.StateDirectory),
		metrics: newDescs(),
		lookup:  lookup,
		wake:    make(chan struct{}, 1),
		watches: make(map[string]*watch),
	}
	if w.logger == nil {
		w.logger = slog.New(slog.DiscardHandler)
	}
	if w.keep < 0 {
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
		if s.Name == "" || s.Settle < 0 || s.Interval < 0 || seen[canonical(s.Name)] {
			return fmt.Errorf("configure service %q: needs a name of its own and durations that are not negative", s.Name)
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
		known := w.watches[canonical(s.Name)]
		if known == nil {
			known = &watch{phase: rand.Float64()}
			w.watches[canonical(s.Name)] = known
		}
		s.Settle, s.Interval = cmp.Or(s.Settle, DefaultSettle), cmp.Or(s.Interval, DefaultInterval)
		known.service, known.history.settle = s, s.Settle
	}
	w.flows.Store(nil)
	w.wakeUp()
	return nil
}

// Addresses returns the addresses that the name has now and those that it had
// before and has no more, both sorted; none for a name that is not watched. Addresses of
// a family that was not answered since the start are left out: what a state file has of
// them may be out of date. IPv4-mapped addresses are IPv4 ones.
func (w *Watcher) Addresses(name string) (current, former []netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known := w.watches[canonical(name)]; known != nil {
		return known.history.answers()
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
