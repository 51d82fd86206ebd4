package services

import (
	"net/netip"
	"slices"
	"time"
)

// Status is the state of a watched name.
type Status struct {
	Name string
	// Port is the port of the service; 0 if only its addresses are watched and no sockets
	// are counted.
	Port uint16
	// Resolver is Service.Resolver.
	Resolver netip.AddrPort
	// Current and Former are the current and former addresses, sorted.
	Current, Former []Address
	// Looked is the end of the last lookup; zero before the first.
	Looked time.Time
	// Err joins the errors of the last lookups of both families; nil if both succeeded.
	Err error
	// Pods are the pods with sockets to former addresses in the last scan, sorted by name;
	// nil without node mode.
	Pods []PodSockets
}

// PodSockets are the sockets of a pod to former addresses of a service.
type PodSockets struct {
	// Namespace and Pod are the labels of the pod.
	Namespace, Pod string
	// Sockets and Shared are sums over the former addresses; see Address.
	Sockets, Shared int
	// LongestIdle is the longest time without data of Sockets; 0 if unknown.
	LongestIdle time.Duration
}

// Address is a current or former address of a watched name.
type Address struct {
	netip.Addr
	// Since is when the address became former; zero for a current address or if unknown.
	Since time.Time
	// Sockets is the number of sockets to the address in the last scan, see Observe, as
	// counted by tcphup_service_sockets.
	Sockets int
	// Shared is the number of further sockets to a former address that may belong to another
	// service, which has the address now.
	Shared int
}

// Status returns the state of every watched name, sorted by name.
func (w *Watcher) Status() []Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]Status, 0, len(w.watches))
	for _, name := range w.sorted() {
		entry := w.watches[name]
		addresses := func(addrs []netip.Addr) (list []Address) {
			for _, addr := range addrs {
				a := entry.history.addresses[addr]
				list = append(list, Address{Addr: addr, Since: a.since, Sockets: int(a.sockets), Shared: int(a.shared)})
			}
			return list
		}
		current, former := entry.history.list()
		list = append(list, Status{
			Name: name, Port: entry.service.Port, Resolver: entry.service.Resolver, Current: addresses(current), Former: addresses(former),
			Looked: entry.lookedUp, Err: joined(entry.lookups[ipv4].err, entry.lookups[ipv6].err),
			Pods: slices.Clone(entry.pods),
		})
	}
	return list
}
