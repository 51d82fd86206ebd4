package services

import (
	"net/netip"
	"sync"

	"tcphup/sockdiag"
)

// inUse are the states of sockets that the application may still use. Locally closed
// sockets are not stale.
var inUse = sockdiag.States(sockdiag.Established, sockdiag.SynSent, sockdiag.CloseWait)

// flowIndex maps destinations to services. It is immutable, except for its cache.
type flowIndex struct {
	endpoints []netip.AddrPort // of all names; port 0 for a name without one
	prefixes  sync.Map         // cache: prefix length to map[netip.AddrPort]bool, see truncated

	// byRemote has the indexes into targets for each destination. Several services may
	// have the same address.
	byRemote map[netip.AddrPort][]int
	targets  []target
	names    []string // services with a port and an address
	watches  []*watch // of names
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
			index.watches = append(index.watches, entry)
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
