package browser_test

import (
	"errors"
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
		last := &s.Decisions[len(s.Decisions)-1]
		last.Policy, last.Flow.Command, last.Flow.Detail = hostile, hostile, hostile
		s.Receiver.Policies[0].Name = hostile
		s.Checks[0].Detail, s.Checks[0].Fix = hostile, hostile
		s.Services = []services.Status{{Name: hostile, Port: 1, Looked: now, Err: errors.New(hostile), Former: manyAddresses()}}
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
			{Address: "10.20.0.5", Port: "5432", Sockets: 48, Idle: []int{0, 1, 0, 2, 0, 0, 3, 5, 11, 9, 6, 11}, Stalled: 4, Armed: 44},
			{Address: "10.20.0.6", Port: "5432", Sockets: 64, Idle: []int{22, 14, 9, 6, 5, 4, 2, 2, 0, 0, 0, 0}, Armed: 64},
			{Address: "10.20.7.11", Port: "6379", Sockets: 12, Idle: []int{0, 0, 0, 1, 2, 4, 5, 0, 0, 0, 0, 0}, Armed: 0},
			{Address: "203.0.113.40", Port: "443", Sockets: 7, Idle: []int{1, 0, 0, 2, 0, 0, 1, 0, 3, 0, 0, 0}, Armed: 7},
			{Address: "2001:db8:0:12::40", Port: "443", Sockets: 6, Idle: []int{4, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, Armed: 3, Subflows: 6, Connections: 4, Pathless: 1},
			{Address: "10.20.9.2", Port: "9092", Sockets: 310, Idle: []int{290, 12, 5, 1, 1, 0, 1, 0, 0, 0, 0, 0}, Armed: 310},
			{Address: "other", Sockets: 29, Idle: []int{7, 3, 2, 4, 5, 0, 3, 2, 1, 0, 2, 0}, Stalled: 0, Armed: 11},
		}},
		Services: []services.Status{
			{Name: "allowed.internal", Looked: ago(time.Second), Current: []services.Address{address("10.20.30.1", 0, time.Time{})}},
			{
				Name: "cache.internal", Port: 6379, Looked: ago(8 * time.Second), Err: errors.New("ask 10.20.0.53:53 for cache.internal. A: answer is SERVFAIL"),
				Current: []services.Address{address("10.20.7.11", 12, time.Time{})},
			},
			{
				Name: "db.internal", Port: 5432, Looked: ago(4 * time.Second),
				Current: []services.Address{address("10.20.0.6", 64, time.Time{})},
				Former:  []services.Address{address("10.20.0.4", 0, ago(5*time.Hour)), address("10.20.0.5", 48, ago(4*time.Minute))},
			},
		},
		Decisions: []audit.Record{
			{Time: ago(3 * time.Hour), Policy: "partner-api", Destination: "203.0.113.40", Port: "443", Result: "shadow", Shadow: true, Flows: map[hangup.Outcome]int{"planned": 1}},
			{Time: ago(3 * time.Hour), Policy: "partner-api", Result: "shadow", Shadow: true, Flow: flow("10.20.0.1:40122", "203.0.113.40:443", "java", 2211, "shutdown", "planned", "", "")},
			{Time: ago(41 * time.Minute), Policy: "stale-cache", Destination: "10.20.7.11", Port: "6379", Result: "breaker_open", Detail: "hung up 10 times within 1h0m0s: the breaker opens until 2026-03-14T09:45:12Z"},
			{Time: ago(12 * time.Minute), Result: "not_allowed", Destination: "10.99.0.1", Port: "22", Policy: "stale-database", Detail: "10.99.0.1 is outside of what the policy allows"},
			{Time: ago(2 * time.Minute), Policy: "stale-database", Destination: "10.20.0.5", Port: "5432", Result: "refused", Flows: map[hangup.Outcome]int{"closed": 1, "half_closed": 1, "refused": 1}},
			{Time: ago(2 * time.Minute), Policy: "stale-database", Result: "refused", Flow: flow("10.20.0.1:51004", "10.20.0.5:5432", "pgbouncer", 871, "shutdown", "closed", "", "")},
			{Time: ago(2 * time.Minute), Policy: "stale-database", Result: "refused", Flow: flow("10.20.0.1:51010", "10.20.0.5:5432", "pgbouncer", 871, "shutdown", "half_closed", "", "the peer holds its end")},
			{Time: ago(2 * time.Minute), Policy: "stale-database", Result: "refused", Flow: flow("10.20.0.1:51044", "10.20.0.5:5432", "report.py", 4093, "none", "refused", "sigpipe", "its next write would kill process 4093")},
		},
	}
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
