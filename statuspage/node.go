package statuspage

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"tcphup/collector"
	"tcphup/hangup"
	"tcphup/internal/text"
	"tcphup/services"
)

// Limits of node mode.
const (
	// pageNodeDestinations takes the place of pageDestinations.
	pageNodeDestinations = 30
	pagePods             = 20 // with sockets to former addresses
	pageNamespaces       = 30
)

// pageNode has the content of node mode.
type pageNode struct {
	// Namespace restricts the page to the pods of one namespace; empty means all.
	Namespace string
	Totals    []total
	Notes     []string
	// Namespaces are those with the most stale sockets, then the most sockets, sorted by name.
	Namespaces     []pageNamespace
	MoreNamespaces int // number of namespaces beyond Namespaces

	Pods     []pagePod // with stale sockets, or sockets that may be; most first
	MorePods int       // number of entries beyond Pods
}

// pageNamespace is a namespace with a link that restricts the page to it.
type pageNamespace struct {
	Name           string
	Pods           int // with outbound sockets
	Selected       bool
	sockets, stale int
}

// pagePod has the sockets of a pod to the former addresses of a service.
type pagePod struct {
	PodName  hangup.PodName // as shown
	Service  string
	Sockets  int
	Shared   int // further sockets, which may be of another service
	Longest  string
	VeryLong bool // Longest is at least text.VeryLongIdle
}

// shownPod returns the name of a pod as shown.
func shownPod(namespace, pod string) hangup.PodName {
	return hangup.PodName{Namespace: text.Printable(namespace), Pod: text.Printable(pod)}
}

// includes reports whether the page shows the pods of a namespace.
func (n *pageNode) includes(namespace string) bool {
	return n == nil || n.Namespace == "" || n.Namespace == namespace
}

// filters reports whether the page is restricted to a namespace.
func (n *pageNode) filters() bool { return n != nil && n.Namespace != "" }

// newPageNode returns the content of node mode for the snapshot and the services.
func newPageNode(s *collector.Snapshot, status []services.Status, namespace string) *pageNode {
	n := &pageNode{Namespace: namespace}
	c := s.Node
	for _, t := range []struct {
		name  string
		n     int
		alarm bool
	}{
		{"pods read", c.Read, false},
		{"pods skipped", c.Skipped, false},
		{"pods failed", c.Failed, true},
		{"pods ended", c.Ended, false},
		{"pods without a name", c.Unnamed, false},
		{"hostNetwork pods left out", c.HostNetwork, false},
		{"other namespaces left out", c.Node + c.Other, false},
	} {
		n.Totals = append(n.Totals, total{t.name, strconv.Itoa(t.n), t.alarm && t.n > 0})
	}
	if c.Skipped > 0 {
		n.Notes = append(n.Notes, "Skipped: the scan had used up its processor time (--node.cpu-budget). These pods are missing below; later scans read them first.")
	}
	if c.Failed > 0 {
		n.Notes = append(n.Notes, "Failed: their sockets could not be read, see the log. These pods are missing below.")
	}
	if c.Unnamed > 0 {
		n.Notes = append(n.Notes, "Pods without a name have their UID in its place: --node.pod-logs has no directory for them.")
	}
	n.setNamespaces(s.Destinations, status)
	n.setPods(status)
	return n
}

func (n *pageNode) setNamespaces(destinations []collector.Destination, status []services.Status) {
	all := make(map[string]*pageNamespace)
	get := func(name string) *pageNamespace {
		if all[name] == nil {
			all[name] = &pageNamespace{Name: name, Selected: name == n.Namespace}
		}
		return all[name]
	}
	seen := make(map[hangup.PodName]bool)
	for i := range destinations {
		d := &destinations[i]
		if d.Sockets+d.Connections == 0 {
			continue
		}
		one := get(d.Namespace)
		one.sockets += d.Sockets
		if pod := (hangup.PodName{Namespace: d.Namespace, Pod: d.Pod}); !seen[pod] {
			seen[pod] = true
			one.Pods++
		}
	}
	for i := range status {
		for _, p := range status[i].Pods {
			get(p.Namespace).stale += p.Sockets
		}
	}
	list := slices.SortedFunc(maps.Values(all), func(a, b *pageNamespace) int {
		return cmp.Or(compareTrueFirst(a.Selected, b.Selected), cmp.Compare(b.stale, a.stale), cmp.Compare(b.sockets, a.sockets), cmp.Compare(a.Name, b.Name))
	})
	n.MoreNamespaces = max(0, len(list)-pageNamespaces)
	for _, one := range list[:len(list)-n.MoreNamespaces] {
		n.Namespaces = append(n.Namespaces, *one)
	}
	slices.SortFunc(n.Namespaces, func(a, b pageNamespace) int { return cmp.Compare(a.Name, b.Name) })
}

func (n *pageNode) setPods(status []services.Status) {
	var list []pagePod
	for i := range status {
		for _, p := range status[i].Pods {
			if !n.includes(p.Namespace) {
				continue
			}
			pod := pagePod{PodName: shownPod(p.Namespace, p.Pod), Service: status[i].Name, Sockets: p.Sockets, Shared: p.Shared, Longest: "–"}
			if p.LongestIdle > 0 {
				pod.Longest, pod.VeryLong = text.Duration(p.LongestIdle), p.LongestIdle >= text.VeryLongIdle
			}
			list = append(list, pod)
		}
	}
	slices.SortStableFunc(list, func(a, b pagePod) int {
		return cmp.Or(cmp.Compare(b.Sockets, a.Sockets), cmp.Compare(b.Shared, a.Shared),
			a.PodName.Compare(b.PodName), cmp.Compare(a.Service, b.Service))
	})
	n.Pods = list[:min(len(list), pagePods)]
	n.MorePods = len(list) - len(n.Pods)
}
