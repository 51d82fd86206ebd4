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

// How much the page shows at most of watched services and of the addresses of each.
const (
	pageServices  = 20
	pageAddresses = 8
)

// pageService is a watched name. To clients that may not see peers it tells what
// the metrics tell: the name, and how many addresses and sockets there are.
type pageService struct {
	Name            string // with the port, if it may be seen
	Current, Former pageAddressList
	// Stale says how many sockets lead to former addresses; "" when they were not
	// counted.
	Stale string
	Alarm bool // there are such sockets

	Looked bool // it was looked up
	Failed bool // and the last time that failed
	When   time.Time
	Why    string // if it may be seen

	stale int
}

// pageAddressList is the current or the former addresses of a service.
type pageAddressList struct {
	Count int
	Shown []pageAddress // those with most sockets first; none if they may not be seen
	More  int           // addresses beyond those
}

type pageAddress struct {
	Address string
	Sockets string    // "" when they were not counted
	Since   time.Time // former since then; zero: current, or not known
}

// setServices takes those with most sockets to former addresses first, then those
// that cannot be looked up. counted says that a pass over the sockets has just
// succeeded.
func (d *pageData) setServices(status []services.Status, counted bool) {
	var list []pageService
	for i := range status {
		d.FormerAddresses = d.FormerAddresses || len(status[i].Former) > 0
		list = append(list, newPageService(&status[i], counted, d.Private))
	}
	slices.SortFunc(list, func(a, b pageService) int {
		return cmp.Or(cmp.Compare(b.stale, a.stale), compareTrueFirst(a.Failed, b.Failed),
			cmp.Compare(b.Former.Count, a.Former.Count), cmp.Compare(a.Name, b.Name))
	})
	d.Services = list[:min(len(list), pageServices)]
	d.MoreServices = len(list) - len(d.Services)
}

func newPageService(s *services.Status, counted, private bool) pageService {
	counted = counted && s.Port != 0
	p := pageService{
		Name:    s.Name,
		Current: newPageAddressList(s.Current, counted, private),
		Former:  newPageAddressList(s.Former, counted, private),
		Looked:  !s.Looked.IsZero(), Failed: s.Err != nil, When: s.Looked,
	}
	for _, a := range s.Former {
		p.stale += a.Sockets
	}
	if counted {
		p.Stale, p.Alarm = strconv.Itoa(p.stale), p.stale > 0
	}
	if private && s.Port != 0 {
		p.Name = net.JoinHostPort(s.Name, strconv.Itoa(int(s.Port)))
	}
	if private && s.Err != nil {
		p.Why = text.Printable(s.Err.Error())
	}
	return p
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
		list.Shown = append(list.Shown, shown)
	}
	return list
}

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
