package statuspage

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"time"

	"tcphup/internal/text"
	"tcphup/services"
)

// Limits of the services, and of the addresses per list.
const (
	pageServices  = 20
	pageAddresses = 8
)

// pageService is a watched service. Without Private it has no more than the metrics: the
// name, and the numbers of addresses and sockets.
type pageService struct {
	Name            string // with the port if Private
	Current, Former pageAddressList
	// Stale is the number of sockets to former addresses; empty if not counted.
	Stale string
	Alarm bool // Stale is above 0

	LookedUp bool // at least one lookup has ended
	Failed   bool // the last lookup failed
	When     time.Time
	Error    string // of the last lookup, if Private
	Resolver string // of Service, if Private; empty without one

	stale int
}

// pageAddressList is the list of current or former addresses of a service.
type pageAddressList struct {
	Count int
	Shown []pageAddress // most sockets first; empty without Private
	More  int           // number of addresses beyond Shown
}

type pageAddress struct {
	Address string
	Sockets string    // empty if not counted
	Shared  string    // further sockets, which may be of another service
	Since   time.Time // start of being former; zero if current or unknown
}

// setServices sets the services: most sockets to former addresses first, then failed
// lookups. counted reports whether the status has the socket counts of a complete scan.
func (d *pageData) setServices(status []services.Status, counted bool) {
	var list []pageService
	d.Stale = -1
	for i := range status {
		d.FormerAddresses = d.FormerAddresses || len(status[i].Former) > 0
		s := d.newPageService(&status[i], counted)
		if s.Stale != "" {
			d.Stale = max(d.Stale, 0) + s.stale
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b pageService) int {
		return cmp.Or(cmp.Compare(b.stale, a.stale), compareTrueFirst(a.Failed, b.Failed),
			cmp.Compare(b.Former.Count, a.Former.Count), cmp.Compare(a.Name, b.Name))
	})
	d.Services = list[:min(len(list), pageServices)]
	d.MoreServices = len(list) - len(d.Services)
}

func (d *pageData) newPageService(s *services.Status, counted bool) pageService {
	counted = counted && s.Port != 0
	byAddress := counted && !d.Node.filters() // the sockets of an address are of all namespaces
	p := pageService{
		Name:     s.Name,
		Current:  newPageAddressList(s.Current, byAddress, d.Private),
		Former:   newPageAddressList(s.Former, byAddress, d.Private),
		LookedUp: !s.Looked.IsZero(), Failed: s.Err != nil, When: s.Looked,
		stale: d.Node.stale(s),
	}
	if counted {
		p.Stale, p.Alarm = strconv.Itoa(p.stale), p.stale > 0
	}
	if !d.Private {
		return p
	}
	if s.Port != 0 {
		p.Name = net.JoinHostPort(s.Name, strconv.Itoa(int(s.Port)))
	}
	if s.Resolver.IsValid() {
		p.Resolver = s.Resolver.String()
	}
	if s.Err != nil {
		p.Error = text.Printable(s.Err.Error())
	}
	return p
}

// stale returns the number of sockets of the service to former addresses.
func (n *pageNode) stale(s *services.Status) (sockets int) {
	if n == nil {
		for _, a := range s.Former {
			sockets += a.Sockets
		}
		return sockets
	}
	for _, p := range s.Pods {
		if n.includes(p.Namespace) {
			sockets += p.Sockets
		}
	}
	return sockets
}

func newPageAddressList(addresses []services.Address, counted, private bool) pageAddressList {
	list := pageAddressList{Count: len(addresses)}
	if !private {
		return list
	}
	addresses = slices.Clone(addresses)
	slices.SortStableFunc(addresses, func(a, b services.Address) int {
		return cmp.Or(cmp.Compare(b.Sockets, a.Sockets), b.Since.Compare(a.Since))
	})
	list.More = max(0, len(addresses)-pageAddresses)
	for _, a := range addresses[:len(addresses)-list.More] {
		shown := pageAddress{Address: a.String(), Since: a.Since}
		if counted {
			shown.Sockets = text.Plural(a.Sockets, "socket")
		}
		if counted && a.Shared > 0 {
			shown.Shared = strconv.Itoa(a.Shared) + " more may belong to another service"
		}
		list.Shown = append(list.Shown, shown)
	}
	return list
}

// compareTrueFirst sorts true before false.
func compareTrueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}
