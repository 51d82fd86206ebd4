package statuspage

import (
	"cmp"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/version"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/collector"
	"tcphup/hangup"
	"tcphup/internal/text"
)

// pageDestinations limits the destinations, without node mode. The metrics have the rest.
const pageDestinations = 20

// pageData is the data of the page template.
type pageData struct {
	Host    string
	Now     time.Time
	Started time.Time
	Version, Revision, BuildDate,
	GoVersion string
	Mode operatingMode
	// Private is set if the client may see processes, peers and details.
	Private bool

	Node *pageNode // nil without node mode

	Totals []total
	Failed string // error of the snapshot; empty on success

	Services        []pageService
	MoreServices    int  // number of services beyond Services
	FormerAddresses bool // at least one service has former addresses
	// Stale is the number of sockets to former addresses of all services; -1 if not counted.
	Stale int

	Destinations []pageDestination
	More         int // number of destinations beyond Destinations

	Policies  []alerts.PolicyStatus
	Receives  bool
	Decisions []*decision
	Checks    []actuator.Check
	Unusable  bool // neither shutdown nor destroy is usable
}

// operatingMode is the present effect of alerts.
type operatingMode struct {
	Name        string // an alerts.Mode or paused; also a CSS class
	Explanation string
}

type total struct {
	Name, Value string
	Alarm       bool
}

type pageDestination struct {
	collector.Destination
	PodName         hangup.PodName // as shown
	Name            string
	Median, Longest string
	VeryLong        bool // Longest is at least text.VeryLongIdle
	Histogram       histogram
}

// newPageData returns the page data of a state. In node mode, a namespace restricts the page
// to its pods; empty means all.
func newPageData(s State, namespace string) *pageData {
	host, _ := os.Hostname() // empty on error
	d := &pageData{
		Host: host, Now: time.Now().UTC(), Started: s.Started.UTC(),
		Version: cmp.Or(version.Version, "unknown"), Revision: version.GetRevision(),
		BuildDate: version.BuildDate, GoVersion: version.GoVersion,
		Private: s.Private, Receives: s.Receiver.Mode != alerts.ModeExporter,
		Mode: newOperatingMode(&s.Receiver), Policies: s.Receiver.Policies,
	}
	if s.SnapshotErr == nil && s.Snapshot.Node != nil {
		d.Node = newPageNode(s.Snapshot, s.Services, namespace)
	}
	d.setChecks(s.Checks)
	d.setDecisions(s.Decisions)
	d.setServices(s.Services, s.SnapshotErr == nil)
	if s.SnapshotErr != nil {
		d.Failed = s.SnapshotErr.Error()
		return d
	}
	d.setDestinations(s.Snapshot)
	return d
}

// newOperatingMode returns the receiver's mode, or paused, with an explanation.
func newOperatingMode(s *alerts.Status) operatingMode {
	mode := operatingMode{Name: string(s.Mode)}
	switch {
	case s.Mode == alerts.ModeExporter:
		mode.Explanation = "The alert receiver is disabled: --alerts.listen-address is empty. Only metrics are served."
	case s.Paused != "":
		mode = operatingMode{"paused", "Alerts close no connections: " + s.Paused + "."}
	case s.Mode == alerts.ModeArmed:
		mode.Explanation = "Alerts with valid credentials close connections as the policies below allow."
	case s.Shadow:
		mode.Explanation = "Alerts are planned and reported, no connection is closed: --alerts.shadow is set."
	case !s.HasCredentials:
		mode.Explanation = "Alerts are planned and reported, no connection is closed: the receiver requires no credentials. Set --alerts.token-file or --alerts.web-config-file."
	case len(s.Policies) == 0:
		mode.Explanation = "Alerts close no connections: the configuration has no policy."
	default:
		mode.Explanation = "Alerts are planned and reported, no connection is closed: every policy is in shadow."
	}
	return mode
}

// setChecks sets the results of the self-test. Details name processes, so they are
// private.
func (d *pageData) setChecks(checks []actuator.Check) {
	d.Unusable = d.Receives && len(checks) > 0
	for _, c := range checks {
		if c.Usable && (c.Name == string(hangup.Shutdown) || c.Name == string(hangup.Destroy)) {
			d.Unusable = false
		}
		c.Detail = text.Printable(c.Detail)
		if !d.Private {
			c.Detail = ""
		}
		d.Checks = append(d.Checks, c)
	}
}

// setDestinations sets the destinations, longest idle first, and the totals.
func (d *pageData) setDestinations(s *collector.Snapshot) {
	list := slices.DeleteFunc(s.Destinations, func(of collector.Destination) bool {
		return of.Sockets+of.Connections == 0 || !d.Node.includes(of.Namespace)
	})
	slices.SortFunc(list, compareDestinations)
	shown := pageDestinations
	if d.Node != nil {
		shown = pageNodeDestinations
	}
	var sockets, stalled, old, subflows, pathless, distinct int
	folds := false
	for i := range list {
		from := &list[i]
		sockets += from.Sockets
		stalled += from.Stalled
		subflows += from.Subflows
		pathless += from.Pathless
		for bucket, n := range from.Idle {
			if age := ageOf(bucket); age == "old" || age == "stale" {
				old += n
			}
		}
		if from.Other() {
			folds = true
		} else {
			distinct++
		}
		if i < shown {
			d.Destinations = append(d.Destinations, newPageDestination(from, s))
		}
	}
	d.More = max(0, len(list)-shown)
	destinations := atLeast(s) + strconv.Itoa(distinct+s.Folded)
	if d.Node.filters() {
		destinations = strconv.Itoa(distinct)
		if folds { // Folded is of all namespaces
			destinations = "over " + destinations
		}
	}
	if d.Stale >= 0 {
		d.Totals = append(d.Totals, total{"stale sockets", strconv.Itoa(d.Stale), d.Stale > 0})
	}
	d.Totals = append(d.Totals, []total{
		{"outbound sockets", strconv.Itoa(sockets), false},
		{"destinations", destinations, false},
		{"idle over " + roundText(text.LongIdle), strconv.Itoa(old), false},
		{"stalled", strconv.Itoa(stalled), stalled > 0},
		{"MPTCP subflows", strconv.Itoa(subflows), false},
	}...)
	if !d.Node.filters() { // Inbound is of all namespaces
		d.Totals = append(d.Totals, total{"inbound sockets", strconv.Itoa(s.Inbound), false})
	}
	if pathless > 0 {
		d.Totals = append(d.Totals, total{"MPTCP without subflows", strconv.Itoa(pathless), true})
	}
}

// compareDestinations sorts by the number of sockets in the longest idle bucket, then in
// the next one, and so on. The sum of the folded destinations comes last.
func compareDestinations(a, b collector.Destination) int {
	if c := compareTrueFirst(b.Other(), a.Other()); c != 0 {
		return c
	}
	for i := len(a.Idle) - 1; i >= 0; i-- {
		if c := cmp.Compare(b.Idle[i], a.Idle[i]); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(b.Sockets, a.Sockets), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod),
		cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
}

// atLeast returns the prefix of the number of destinations, empty if that is exact.
func atLeast(s *collector.Snapshot) string {
	if s.FoldedMore {
		return "at least "
	}
	return ""
}

func newPageDestination(from *collector.Destination, s *collector.Snapshot) pageDestination {
	d := pageDestination{
		Destination: *from, PodName: shownPod(from.Namespace, from.Pod),
		Name: net.JoinHostPort(from.Address, from.Port), Median: "–", Longest: "–", Histogram: newHistogram(from.Idle),
	}
	switch {
	case from.Other() && s.Node != nil: // Folded is of all pods
		d.Name = "other"
	case from.Other():
		d.Name = "other (" + atLeast(s) + text.Plural(s.Folded, "destination") + ")"
	}
	if slices.Max(from.Idle) > 0 {
		d.Median, d.Longest = text.Duration(from.MedianIdle), text.Duration(from.LongestIdle)
		d.VeryLong = from.LongestIdle >= text.VeryLongIdle
	}
	return d
}
