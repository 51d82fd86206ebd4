package services

import (
	"net/netip"
	"time"
)

// Status is what is known of a watched name.
type Status struct {
	Name string
	// Port is the service's; 0: the name is watched for its addresses alone, and no
	// sockets are counted.
	Port uint16
	// Current and Former are the addresses that the name has now and those that it
	// had before and has no more, both sorted by address.
	Current, Former []Address
	// Looked is when the last lookup ended; zero: there was none yet.
	Looked time.Time
	// Err is why the last lookup of a family failed; nil if those of both succeeded.
	Err error
}

// Address is one that a watched name has or had.
type Address struct {
	netip.Addr
	// Since is when the address became former; zero for a current one, and where that
	// is not known.
	Since time.Time
	// Sockets is how many of those that tcphup_service_sockets counts led to the
	// address in the last pass of Sockets.
	Sockets int
}

// Status returns what is known of every watched name, sorted by name.
func (w *Watcher) Status() []Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]Status, 0, len(w.watches))
	for _, name := range w.sorted() {
		known := w.watches[name]
		addresses := func(addrs []netip.Addr) (list []Address) {
			for _, addr := range addrs {
				a := known.history.addresses[addr]
				list = append(list, Address{Addr: addr, Since: a.since, Sockets: int(a.sockets)})
			}
			return list
		}
		current, former := known.history.list()
		list = append(list, Status{
			Name: name, Port: known.service.Port, Current: addresses(current), Former: addresses(former),
			Looked: known.lookedUp, Err: joined(known.lookups[ipv4].err, known.lookups[ipv6].err),
		})
	}
	return list
}
