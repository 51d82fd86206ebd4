package services

import (
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/sockdiag"
)

// Sockets counts the flows of the watched services. It sees them as somebody else
// reads them anyway: a dump of its own for each scrape would walk all sockets of
// the host a second time.
type Sockets struct{ watcher *Watcher }

// Sockets returns what counts flows for the Watcher.
func (w *Watcher) Sockets() Sockets { return Sockets{w} }

// inUse are the states in which the application may still use a socket or wait for
// it: those that it has closed, or that were hung up, are stale no more.
var inUse = sockdiag.States(sockdiag.Established, sockdiag.SynSent, sockdiag.CloseWait)

// noteInterval is how often, at most, the state file is written for no other
// reason than that flows to former addresses are still there.
const noteInterval = 10 * time.Minute

// flowIndex tells where the flows of services lead. What it says does not change.
type flowIndex struct {
	everywhere []netip.AddrPort // of all names; port 0 for those without one
	widened    sync.Map         // prefix length to map[netip.AddrPort]struct{}, see pinned

	// places holds, for each destination, what leads there: several services may
	// have the same address, one now and one before.
	places map[netip.AddrPort][]int
	leads  []lead
	names  []string // of services with a port that were ever found
}

// lead is one address of one service.
type lead struct {
	service int // index in names
	former  bool
	known   *address // of the service's history: w.mu must be held
}

// flowIndex returns the index, made anew if addresses have changed.
func (w *Watcher) flowIndex() *flowIndex {
	if index := w.flows.Load(); index != nil {
		return index
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	index := &flowIndex{places: make(map[netip.AddrPort][]int)}
	for _, name := range w.sorted() {
		known := w.watches[name]
		for addr := range known.history.addresses {
			index.everywhere = append(index.everywhere, netip.AddrPortFrom(addr, known.service.Port))
		}
		if known.service.Port == 0 || len(known.history.addresses) == 0 {
			continue
		}
		for addr, a := range known.history.addresses {
			to := netip.AddrPortFrom(addr, known.service.Port)
			index.places[to] = append(index.places[to], len(index.leads))
			index.leads = append(index.leads, lead{service: len(index.names), former: a.former, known: a})
		}
		index.names = append(index.names, name)
	}
	w.flows.Store(index)
	return index
}

// pinned returns where all names lead, each address as the first of its prefix of so
// many bits. Askers have one length for each family.
func (x *flowIndex) pinned(bits int) map[netip.AddrPort]struct{} {
	if pins, ok := x.widened.Load(bits); ok {
		return pins.(map[netip.AddrPort]struct{}) //nolint:forcetypeassert // nothing else is stored
	}
	pins := make(map[netip.AddrPort]struct{}, len(x.everywhere))
	for _, to := range x.everywhere {
		if prefix, err := to.Addr().Prefix(bits); err == nil { // else it is of the other family
			pins[netip.AddrPortFrom(prefix.Addr(), to.Port())] = struct{}{}
		}
	}
	x.widened.Store(bits, pins)
	return pins
}

// Observe begins a pass over the flows of the host. see is to be called for each
// outbound TCP flow, and done after the last of them, if there was no error: it
// returns the metrics. Both are for one goroutine.
func (s Sockets) Observe() (see func(*sockdiag.Flow), done func() []prometheus.Metric) {
	p := &pass{watcher: s.watcher, index: s.watcher.flowIndex()}
	p.counts = make([]uint32, len(p.index.leads))
	p.idle = make(map[int]time.Duration)
	return p.see, p.done
}

// pass counts the flows of one pass.
type pass struct {
	watcher *Watcher
	index   *flowIndex
	counts  []uint32              // by lead
	idle    map[int]time.Duration // the longest to a former address, by service
}

func (p *pass) see(f *sockdiag.Flow) {
	places := p.index.places[f.Remote]
	if len(places) == 0 || !inUse.Has(f.State) {
		return
	}
	idle, known := f.Idle()
	for _, i := range places {
		p.counts[i]++
		lead := &p.index.leads[i]
		if !lead.former || !known {
			continue
		}
		if longest, ok := p.idle[lead.service]; !ok || idle > longest {
			p.idle[lead.service] = idle
		}
	}
}

func (p *pass) done() []prometheus.Metric {
	current, former := make([]uint32, len(p.index.names)), make([]uint32, len(p.index.names))
	w := p.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for i, n := range p.counts {
		lead := &p.index.leads[i]
		lead.known.count(now, n)
		if !lead.former {
			current[lead.service] += n
			continue
		}
		former[lead.service] += n
		if n > 0 && now.Sub(w.noted) >= noteInterval {
			w.noted, w.dirty = now, true
		}
	}
	for _, known := range w.watches {
		if known.history.forget(now, w.keep) {
			w.dirty = true
			w.flows.Store(nil)
		}
	}
	d := &w.metrics
	var list []prometheus.Metric
	for i, name := range p.index.names {
		list = append(list,
			gauge(d.sockets, float64(current[i]), name, labelCurrent),
			gauge(d.sockets, float64(former[i]), name, labelFormer))
		if idle, ok := p.idle[i]; ok {
			list = append(list, gauge(d.idle, idle.Seconds(), name))
		}
	}
	return list
}
