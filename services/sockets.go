package services

import (
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/sockdiag"
)

// inUse are the states of sockets that the application may still use. Locally closed
// sockets are not stale.
var inUse = sockdiag.States(sockdiag.Established, sockdiag.SynSent, sockdiag.CloseWait)

// noteInterval is the minimum time between writes of the state file that only update the
// last flow of former addresses.
const noteInterval = 10 * time.Minute

// flowIndex maps destinations to services. It is immutable, except for its cache.
type flowIndex struct {
	endpoints []netip.AddrPort // of all names; port 0 for a name without one
	prefixes  sync.Map         // cache: prefix length to map[netip.AddrPort]bool, see truncated

	// byRemote has the indexes into targets for each destination. Several services may
	// have the same address.
	byRemote map[netip.AddrPort][]int
	targets  []target
	names    []string // services with a port and an address
}

// target is one address of a service.
type target struct {
	service int // index into names
	watch   *watch
	former  bool
	address *address // in the service's history: w.mu must be held
	sharing sharing  // of a former address
}

// flowIndex returns the index; it builds a new one if addresses have changed.
func (w *Watcher) flowIndex() *flowIndex {
	if index := w.flows.Load(); index != nil {
		return index
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	index := &flowIndex{byRemote: make(map[netip.AddrPort][]int)}
	for _, name := range w.sorted() {
		entry := w.watches[name]
		counted := entry.service.Port != 0
		for addr, a := range entry.history.addresses {
			to := netip.AddrPortFrom(addr, entry.service.Port)
			index.endpoints = append(index.endpoints, to)
			if counted {
				index.byRemote[to] = append(index.byRemote[to], len(index.targets))
				index.targets = append(index.targets, target{service: len(index.names), watch: entry, former: a.former, address: a})
			}
		}
		if counted && len(entry.history.addresses) > 0 {
			index.names = append(index.names, name)
		}
	}
	w.share(index)
	w.flows.Store(index)
	return index
}

// truncated returns the endpoints of all names with each address replaced by the first of
// its prefix of this length. Callers use one length per family.
func (x *flowIndex) truncated(bits int) map[netip.AddrPort]bool {
	if prefixes, ok := x.prefixes.Load(bits); ok {
		return prefixes.(map[netip.AddrPort]bool) //nolint:forcetypeassert // the only stored type
	}
	prefixes := make(map[netip.AddrPort]bool, len(x.endpoints))
	for _, to := range x.endpoints {
		if prefix, err := to.Addr().Prefix(bits); err == nil { // other family: bits exceed its length
			prefixes[netip.AddrPortFrom(prefix.Addr(), to.Port())] = true
		}
	}
	x.prefixes.Store(bits, prefixes)
	return prefixes
}

// Observe starts a scan of the flows of the host. The caller passes each outbound TCP flow
// of its own dump to see: a second dump per scrape would read all sockets again. After a
// complete dump it calls done, which returns the metrics. Both functions must be called
// from one goroutine.
func (w *Watcher) Observe() (see func(*sockdiag.Flow), done func() []prometheus.Metric) {
	index := w.flowIndex()
	n := len(index.targets)
	s := &scan{w, index, make([]uint32, n), make([]uint32, n), make([]uint32, n), make(map[int]time.Duration)}
	return s.see, s.done
}

// scan counts the flows of one dump.
type scan struct {
	watcher *Watcher
	index   *flowIndex
	counts  []uint32              // by target
	shared  []uint32              // by target: flows that may belong to another service
	others  []uint32              // by target: flows of another service
	idle    map[int]time.Duration // longest idle time to a former address, by service
}

func (s *scan) see(f *sockdiag.Flow) {
	indices := s.index.byRemote[f.Remote]
	if len(indices) == 0 || !inUse.Has(f.State) {
		return
	}
	idle, ok := f.Idle()
	for _, i := range indices {
		target := &s.index.targets[i]
		if target.former {
			switch s.watcher.owner(target, f) {
			case own:
			case other:
				s.others[i]++
				continue
			default:
				s.shared[i]++
				continue
			}
		}
		s.counts[i]++
		if !target.former || !ok {
			continue
		}
		if longest, ok := s.idle[target.service]; !ok || idle > longest {
			s.idle[target.service] = idle
		}
	}
}

func (s *scan) done() []prometheus.Metric {
	current, former := make([]uint32, len(s.index.names)), make([]uint32, len(s.index.names))
	w := s.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for i, n := range s.counts {
		target := &s.index.targets[i]
		target.address.count(now, n, s.shared[i], s.others[i])
		if target.former && target.address.lost == never {
			target.address.lost = w.boottime() + firstSeenError
			w.flows.Store(nil)
		}
		if !target.former {
			current[target.service] += n
			continue
		}
		former[target.service] += n
		if n > 0 && now.Sub(w.lastNoted) >= noteInterval {
			w.lastNoted, w.dirty = now, true
		}
	}
	for _, entry := range w.watches {
		if entry.history.expire(now, w.keep) {
			w.dirty = true
			w.flows.Store(nil)
		}
	}
	d := &w.metrics
	var list []prometheus.Metric
	for i, name := range s.index.names {
		list = append(list,
			gauge(d.sockets, float64(current[i]), name, labelCurrent),
			gauge(d.sockets, float64(former[i]), name, labelFormer))
		if idle, ok := s.idle[i]; ok {
			list = append(list, gauge(d.idle, idle.Seconds(), name))
		}
	}
	return list
}
