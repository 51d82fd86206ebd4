package statuspage

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/version"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/collector"
	"tcphup/hangup"
	"tcphup/internal/text"
)

// How much the page shows at most; the rest is in the metrics and at the JSON
// endpoints.
const (
	pageDestinations = 20
	pageDecisions    = 20
)

// pageData is what the template of the status page is given.
type pageData struct {
	Host    string
	Now     time.Time
	Started time.Time
	Version, Revision, BuildDate,
	GoVersion string
	Mode operatingMode
	// Private says that the client may see processes, peers and details.
	Private bool

	Destinations []pageDestination
	More         int // destinations beyond those
	Totals       []total
	Failed       string // why there are no destinations; "" when there are

	Services        []pageService
	MoreServices    int  // beyond those
	FormerAddresses bool // one of all services has some

	Policies  []alerts.PolicyStatus
	Receives  bool
	Decisions []decision
	Checks    []actuator.Check
	Unusable  bool // neither method can be used here
}

// operatingMode is the effect that alerts can have now.
type operatingMode struct {
	Name string // an alerts.Mode or paused; also a CSS class
	Why  string
}

type total struct {
	Name, Value string
	Alarm       bool
}

type pageDestination struct {
	collector.Destination
	Name            string
	Median, Longest string
	Stale           bool // the longest is beyond all buckets
	Histogram       histogram
}

// decision is a record of the audit.
type decision struct {
	alerts.Record
	Where   string // destination of the alert, or both ends of the flow
	Process string
	Outcome string // of the flow, or the result of the alert
	Class   string // how it went: good, plan, wait, bad or none
	Why     string
}

// newPageData returns what the page shows of the state.
func newPageData(s State) *pageData {
	host, _ := os.Hostname() // "" is shown as nothing
	d := &pageData{
		Host: host, Now: time.Now().UTC(), Started: s.Started.UTC(),
		Version: cmp.Or(version.Version, "unknown"), Revision: version.GetRevision(),
		BuildDate: version.BuildDate, GoVersion: version.GoVersion,
		Private: s.Private, Receives: s.Receiver.Mode != alerts.ModeExporter,
		Mode: newOperatingMode(&s.Receiver), Policies: s.Receiver.Policies,
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

// newOperatingMode explains the receiver's mode, or its pause.
func newOperatingMode(s *alerts.Status) operatingMode {
	mode := operatingMode{Name: string(s.Mode)}
	switch {
	case s.Mode == alerts.ModeExporter:
		mode.Why = "It receives no alerts: --alerts.listen-address is empty. Only metrics are served."
	case s.Paused != "":
		mode = operatingMode{"paused", "Alerts hang up nothing now: " + s.Paused + "."}
	case s.Mode == alerts.ModeArmed:
		mode.Why = "Alerts with credentials hang up what the policies below allow."
	case s.Shadow:
		mode.Why = "What alerts ask for is planned and reported, nothing is closed: --alerts.shadow is set."
	case !s.HasCredentials:
		mode.Why = "What alerts ask for is planned and reported, nothing is closed: the receiver asks for no credentials. --alerts.token-file or --alerts.web-config-file would arm it."
	case len(s.Policies) == 0:
		mode.Why = "Alerts hang up nothing: the configuration has no policy."
	default:
		mode.Why = "What alerts ask for is planned and reported, nothing is closed: every policy is in shadow."
	}
	return mode
}

// setChecks takes the answers of the self-test. Their details name processes.
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

// setDestinations takes those with the oldest idle sockets first.
func (d *pageData) setDestinations(s *collector.Snapshot) {
	list := slices.DeleteFunc(s.Destinations, func(d collector.Destination) bool { return d.Sockets+d.Connections == 0 })
	slices.SortFunc(list, compareDestinations)
	var sockets, stalled, old, paths, pathless, shown int
	for i := range list {
		from := &list[i]
		sockets += from.Sockets
		stalled += from.Stalled
		paths += from.Subflows
		pathless += from.Pathless
		for bucket, n := range from.Idle {
			if age := ageOf(collector.IdleBuckets(), bucket); age == "old" || age == "stale" {
				old += n
			}
		}
		if !from.Other() {
			shown++
		}
		if i < pageDestinations {
			d.Destinations = append(d.Destinations, newPageDestination(from, s))
		}
	}
	d.More = max(0, len(list)-pageDestinations)
	d.Totals = []total{
		{"outbound sockets", strconv.Itoa(sockets), false},
		{"destinations", atLeast(s) + strconv.Itoa(shown+s.Folded), false},
		{"idle over " + roundText(text.LongIdle), strconv.Itoa(old), false},
		{"stalled", strconv.Itoa(stalled), stalled > 0},
		{"MPTCP paths", strconv.Itoa(paths), false},
		{"inbound sockets", strconv.Itoa(s.Inbound), false},
	}
	if pathless > 0 {
		d.Totals = append(d.Totals, total{"MPTCP without a path", strconv.Itoa(pathless), true})
	}
}

func compareDestinations(a, b collector.Destination) int {
	for i := len(a.Idle) - 1; i >= 0; i-- {
		if a.Other() != b.Other() {
			break
		}
		if a.Idle[i] != b.Idle[i] {
			return cmp.Compare(b.Idle[i], a.Idle[i])
		}
	}
	if a.Other() != b.Other() { // the sum of many is not one of them
		if a.Other() {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(b.Sockets, a.Sockets), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
}

// atLeast precedes a number of destinations that is a lower bound.
func atLeast(s *collector.Snapshot) string {
	if s.FoldedMore {
		return "at least "
	}
	return ""
}

func newPageDestination(from *collector.Destination, s *collector.Snapshot) pageDestination {
	d := pageDestination{Destination: *from, Name: net.JoinHostPort(from.Address, from.Port), Median: "–", Longest: "–", Histogram: newHistogram(from.Idle)}
	if from.Other() {
		d.Name = "other (" + atLeast(s) + text.Plural(s.Folded, "destination") + ")"
	}
	bounds := collector.IdleBuckets()
	if median := bucketAt(from.Idle, 0.5); median >= 0 {
		longest := bucketAt(from.Idle, 1)
		d.Median, d.Longest = boundText(bounds, median), boundText(bounds, longest)
		d.Stale = longest == len(bounds)
	}
	return d
}

// boundText is bucketText in a narrow column.
func boundText(bounds []time.Duration, i int) string {
	return strings.NewReplacer("up to ", "≤ ", "over ", "> ").Replace(bucketText(bounds, i))
}

// setDecisions takes the newest first. Who may not see processes and peers sees
// that something was decided, by which policy and what came of it.
func (d *pageData) setDecisions(records []alerts.Record) {
	slices.Reverse(records)
	for _, r := range records[:min(len(records), pageDecisions)] {
		e := decision{Record: r, Outcome: r.Result, Why: cmp.Or(r.Detail, outcomeCounts(r.Flows))}
		if r.Destination != "" {
			e.Where = net.JoinHostPort(r.Destination, cmp.Or(r.Port, "0"))
		}
		if f := r.Flow; f != nil {
			e.Where, e.Outcome = f.Local.String()+" → "+f.Remote.String(), string(f.Outcome)
			if f.PID != 0 {
				e.Process = f.Command + " (" + strconv.Itoa(f.PID) + ")"
			}
			e.Why = joinNonEmpty(": ", string(f.Method), string(f.Reason), f.Detail, f.Error)
		}
		e.Where, e.Process, e.Why = text.Printable(e.Where), text.Printable(e.Process), text.Printable(e.Why)
		e.Class = outcomeClass(e.Outcome)
		if !d.Private {
			e.Record, e.Where, e.Process, e.Why = alerts.Record{Time: r.Time, Policy: r.Policy, Shadow: r.Shadow}, "", "", outcomeCounts(r.Flows)
			if r.Flow != nil {
				e.Why = string(r.Flow.Reason)
				e.Flow = new(hangup.ResultJSON)
			}
		}
		d.Decisions = append(d.Decisions, e)
	}
}

// outcomeCounts says what became of an alert's flows.
func outcomeCounts(flows map[hangup.Outcome]int) string {
	var parts []string
	for _, o := range hangup.Outcomes() {
		if n := flows[o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, o))
		}
	}
	return strings.Join(parts, ", ")
}

func joinNonEmpty(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" || s == string(hangup.None) }), separator)
}

// outcomeClass sorts outcomes of flows and results of alerts by how they went.
func outcomeClass(outcome string) string {
	switch outcome {
	case "closed", "done":
		return "good"
	case "planned", "shadow":
		return "plan"
	case "half_closed", "lingering", "cooldown", "unfinished", "paused":
		return "wait"
	case "gone", "resolved", "unmatched":
		return "none"
	default:
		return "bad"
	}
}
