package browser_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/audit"
	"tcphup/collector"
	"tcphup/hangup"
	"tcphup/services"
	"tcphup/statuspage"
)

// hostile is a malicious process name, or text in an alert.
const hostile = `"><script>alert(1)</script><img src=x onerror=alert(2)>'{{.}}` + "\x1b[2J\x00\u202e"

var now = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

// pages supplies a state for each path.
type pages struct{}

func (pages) State(r *http.Request) statuspage.State {
	s := exampleState()
	switch r.URL.Path {
	case "/unauthenticated":
		s.Private = false
	case "/hostile":
		s.Snapshot.Destinations[0].Address = hostile
		for i := range s.Decisions {
			r := &s.Decisions[i]
			r.Policy, r.Detail = hostile, hostile
			if r.Flow != nil {
				r.Flow.Command, r.Flow.Detail = hostile, hostile
			}
		}
		s.Receiver.Policies[0].Name = hostile
		s.Checks[0].Detail, s.Checks[0].Fix = hostile, hostile
		s.Services = []services.Status{{Name: hostile, Port: 1, Looked: now, Err: errors.New(hostile), Former: manyAddresses()}}
	case "/node":
		return nodeState()
	case "/empty":
		return statuspage.State{Receiver: alerts.Status{Mode: alerts.ModeExporter}, Snapshot: new(collector.Snapshot)}
	case "/failed":
		s.SnapshotErr = errors.New("read sockets: dump interrupted")
		for i := range s.Checks {
			s.Checks[i].Usable = false
		}
		s.Services = []services.Status{{Name: "db.internal", Port: 5432, Looked: now, Former: manyAddresses()}}
	}
	return s
}

// exampleState has content for each section of the page.
func exampleState() statuspage.State {
	return statuspage.State{
		Private: true,
		Started: now.Add(-26 * time.Hour),
		Receiver: alerts.Status{Mode: alerts.ModeArmed, HasCredentials: true, Policies: []alerts.PolicyStatus{
			{Name: "stale-database"}, {Name: "stale-cache", OpenBreakers: 1}, {Name: "partner-api", Shadow: true},
		}},
		Checks: []actuator.Check{
			{Name: "dump_ipv4", Usable: true, Detail: "a connection of our own was found"},
			{Name: "dump_mptcp", Usable: true, Detail: "a connection of our own was found"},
			{Name: "shutdown", Usable: true, Detail: "a connection of our own was shut down"},
			{Name: "destroy", Detail: "destroy socket: operation not permitted", Fix: "grant CAP_NET_ADMIN (effective: as root, or as a file or ambient capability)"},
			{Name: "processes", Usable: true, Detail: "41 of 42 other processes can be reached; process 1 (systemd): permission denied", Fix: "grant CAP_SYS_PTRACE"},
		},
		Snapshot: &collector.Snapshot{Folded: 12, Inbound: 318, Destinations: []collector.Destination{
			{Address: "10.20.0.5", Port: "5432", Sockets: 48, Idle: []int{0, 1, 0, 2, 0, 0, 3, 5, 11, 9, 6, 11}, MedianIdle: 24 * time.Minute, LongestIdle: 5 * time.Hour, Stalled: 4, Armed: 44},
			{Address: "10.20.0.6", Port: "5432", Sockets: 64, Idle: []int{22, 14, 9, 6, 5, 4, 2, 2, 0, 0, 0, 0}, MedianIdle: 14 * time.Second, LongestIdle: 9 * time.Minute, Armed: 64},
			{Address: "10.20.7.11", Port: "6379", Sockets: 12, Idle: []int{0, 0, 0, 1, 2, 4, 5, 0, 0, 0, 0, 0}, MedianIdle: 77 * time.Second, LongestIdle: 4 * time.Minute, Armed: 0},
			{Address: "203.0.113.40", Port: "443", Sockets: 7, Idle: []int{1, 0, 0, 2, 0, 0, 1, 0, 3, 0, 0, 0}, MedianIdle: 4 * time.Minute, LongestIdle: 27 * time.Minute, Armed: 7},
			{Address: "2001:db8:0:12::40", Port: "443", Sockets: 6, Idle: []int{4, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, MedianIdle: 700 * time.Millisecond, LongestIdle: 95 * time.Second, Armed: 3, Subflows: 6, Connections: 4, Pathless: 1},
			{Address: "10.20.9.2", Port: "9092", Sockets: 310, Idle: []int{290, 12, 5, 1, 1, 0, 1, 0, 0, 0, 0, 0}, MedianIdle: 200 * time.Millisecond, LongestIdle: 6 * time.Minute, Armed: 310},
			{Address: "other", Sockets: 29, Idle: []int{7, 3, 2, 4, 5, 0, 3, 2, 1, 0, 2, 0}, MedianIdle: 25 * time.Second, LongestIdle: 81 * time.Minute, Stalled: 0, Armed: 11},
		}},
		Services: []services.Status{
			{Name: "allowed.internal", Looked: ago(time.Second), Current: []services.Address{address("10.20.30.1", 0, time.Time{})}},
			{
				Name: "cache.internal", Port: 6379, Looked: ago(8 * time.Second), Err: errors.New("ask 10.20.0.53:53 for cache.internal. A: answer is SERVFAIL"),
				Current: []services.Address{address("10.20.7.11", 12, time.Time{})},
			},
			{
				Name: "db-reader.internal", Port: 5432, Looked: ago(3 * time.Second),
				Current: []services.Address{address("10.20.0.5", 9, time.Time{})},
				Former:  []services.Address{address("10.20.0.6", 12, ago(4*time.Minute))},
			},
			{
				Name: "db-writer.internal", Port: 5432, Looked: ago(4 * time.Second),
				Current: []services.Address{address("10.20.0.6", 50, time.Time{})},
				Former:  []services.Address{address("10.20.0.4", 0, ago(5*time.Hour)), {Addr: netip.MustParseAddr("10.20.0.5"), Sockets: 37, Shared: 2, Since: ago(4 * time.Minute)}},
			},
		},
		Decisions: exampleDecisions(),
	}
}

// exampleDecisions returns the records of three alerts about 40 flows each, one with refusals
// and one in shadow, and of rejected alerts.
func exampleDecisions() (records []audit.Record) {
	about := func(r audit.Record, policy, address string, since time.Duration) audit.Record {
		r.Time, r.Policy, r.Destination, r.Port = ago(since), policy, address, "5432"
		return r
	}
	add := func(policy, address string, since time.Duration, list ...audit.Record) {
		for i := range list {
			records = append(records, about(list[i], policy, address, since-time.Duration(i)*10*time.Millisecond))
		}
	}
	flows := func(n int, to, command string, method hangup.Method, outcome hangup.Outcome, reason hangup.Reason, detail string) (list []audit.Record) {
		for i := range n {
			f := flow(fmt.Sprintf("10.20.0.1:%d", 40000+7*i), to+":5432", command, 871+i/20, method, outcome, reason, detail)
			list = append(list, audit.Record{Event: audit.EventFlow, Shadow: outcome == hangup.Planned, Flow: f})
		}
		return list
	}
	end := func(result, detail string, counts map[hangup.Outcome]int, spared map[hangup.Reason]int, reconnects *audit.Reconnects) audit.Record {
		return audit.Record{Event: audit.EventEnd, Result: result, Detail: detail, Shadow: result == "shadow", Flows: counts, Spared: spared, Reconnects: reconnects}
	}
	for i := range 5 {
		add("partner-api", "203.0.113.40", time.Duration(14-i)*time.Minute, append(flows(40, "203.0.113.40", "java", "shutdown", hangup.Planned, "", ""),
			end("shadow", "40 flows would be hung up", map[hangup.Outcome]int{hangup.Planned: 40}, nil, nil))...)
	}
	add("stale-cache", "10.20.7.11", 9*time.Minute, end("breaker_open", "10 actions within 1h0m0s; destination breaker open until 2026-03-14T10:17:12Z", nil, nil, nil))
	add("stale-database", "10.99.0.1", 8*time.Minute, end("not_allowed", "10.99.0.1 is outside of what the policy allows", nil, nil, nil))
	add("stale-database", "10.20.0.4", 7*time.Minute, append(flows(40, "10.20.0.4", "pgbouncer", "shutdown", hangup.Closed, "", "FIN acknowledged after 1.2ms, TIME_WAIT"),
		end("done", "40 flows hung up, spared: 3 evidence", map[hangup.Outcome]int{hangup.Closed: 40}, map[hangup.Reason]int{hangup.ReasonEvidence: 3}, &audit.Reconnects{SameAddress: 2, OtherAddress: 38}))...)
	list := flows(3, "10.20.0.5", "report.py", hangup.None, hangup.Refused, hangup.ReasonSIGPIPE, "SIGPIPE would kill process 871 at its next write")
	list = append(list, flows(2, "10.20.0.5", "pgbouncer", hangup.None, hangup.Refused, hangup.ReasonShared, "another watched name has the address")...)
	list = append(list, flows(1, "10.20.0.5", "pgbouncer", "shutdown", hangup.HalfClosed, "", "FIN acknowledged after 0.9ms, the peer holds its end")...)
	list = append(list, flows(34, "10.20.0.5", "pgbouncer", "shutdown", hangup.Closed, "", "FIN acknowledged after 1.2ms, TIME_WAIT")...)
	add("stale-database", "10.20.0.5", 2*time.Minute, append(list, end("refused", "3 flows refused",
		map[hangup.Outcome]int{hangup.Closed: 34, hangup.HalfClosed: 1, hangup.Refused: 5}, map[hangup.Reason]int{hangup.ReasonShared: 2}, &audit.Reconnects{OtherAddress: 33}))...)
	return records
}

func ago(d time.Duration) time.Time { return now.Add(-d) }

func address(text string, sockets int, since time.Time) services.Address {
	return services.Address{Addr: netip.MustParseAddr(text), Sockets: sockets, Since: since}
}

func flow(local, remote, command string, pid int, method hangup.Method, outcome hangup.Outcome, reason hangup.Reason, detail string) *hangup.ResultJSON {
	return &hangup.ResultJSON{
		FlowJSON: hangup.FlowJSON{
			Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Command: command, PID: pid,
		},
		Method: method, Outcome: outcome, Reason: reason, Detail: detail,
	}
}

// manyAddresses returns more addresses than the page shows, each of maximum length.
func manyAddresses() (list []services.Address) {
	for i := range 24 {
		a := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, byte(i)})
		list = append(list, services.Address{Addr: a, Sockets: 1_000_000 + i, Since: now})
	}
	return list
}
