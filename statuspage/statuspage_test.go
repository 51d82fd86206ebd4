package statuspage

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/audit"
	"tcphup/collector"
	"tcphup/hangup"
	"tcphup/services"
)

// hostile is a malicious process name, or text in an alert.
const hostile = `"><script>alert(1)</script><img src=x onerror=alert(2)>'{{.}}` + "\x1b[2J\x00\u202e"

// examplePage returns page data with content in every section.
func examplePage(private bool) *pageData {
	now := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	d := &pageData{
		Host: "payments-1", Now: now, Started: now.Add(-26 * time.Hour),
		Version: "0.1.0", Revision: "4f2c9d1", GoVersion: "go1.26.0", BuildDate: "20260301-08:00:00",
		Private: private, Receives: true,
		Mode: operatingMode{"armed", "Alerts with valid credentials close connections as the policies below allow."},
		Policies: []alerts.PolicyStatus{
			{Name: "stale-database"}, {Name: "stale-cache", OpenBreakers: 1}, {Name: "partner-api", Shadow: true},
		},
	}
	d.setChecks([]actuator.Check{
		{Name: "dump_ipv4", Usable: true, Detail: "a connection of our own was found"},
		{Name: "dump_mptcp", Usable: true, Detail: "a connection of our own was found"},
		{Name: "shutdown", Usable: true, Detail: "a connection of our own was shut down"},
		{Name: "destroy", Detail: "destroy socket: operation not permitted", Fix: "grant CAP_NET_ADMIN (effective: as root, or as a file or ambient capability)"},
		{Name: "processes", Usable: true, Detail: "41 of 42 other processes can be reached; process 1 (systemd): permission denied", Fix: "grant CAP_SYS_PTRACE"},
	})
	at := func(ago time.Duration) time.Time { return now.Add(-ago) }
	address := func(text string, sockets int, since time.Time) services.Address {
		return services.Address{Addr: netip.MustParseAddr(text), Sockets: sockets, Since: since}
	}
	d.setServices([]services.Status{
		{Name: "allowed.internal", Looked: at(time.Second), Current: []services.Address{address("10.20.30.1", 0, time.Time{})}},
		{
			Name: "cache.internal", Port: 6379, Looked: at(8 * time.Second), Err: errors.New("ask 10.20.0.53:53 for cache.internal. A: answer is SERVFAIL"),
			Current: []services.Address{address("10.20.7.11", 12, time.Time{})},
		},
		{
			Name: "db.internal", Port: 5432, Looked: at(4 * time.Second),
			Current: []services.Address{address("10.20.0.6", 64, time.Time{})},
			Former:  []services.Address{address("10.20.0.4", 0, at(5*time.Hour)), address("10.20.0.5", 48, at(4*time.Minute))},
		},
	}, true)
	d.setDestinations(&collector.Snapshot{Folded: 12, Inbound: 318, Destinations: []collector.Destination{
		{Address: "10.20.0.5", Port: "5432", Sockets: 48, Idle: []int{0, 1, 0, 2, 0, 0, 3, 5, 11, 9, 6, 11}, MedianIdle: 125 * time.Second, LongestIdle: 3 * time.Hour, Stalled: 4, Armed: 44},
		{Address: "10.20.0.6", Port: "5432", Sockets: 64, Idle: []int{22, 14, 9, 6, 5, 4, 2, 2, 0, 0, 0, 0}, Armed: 64},
		{Address: "10.20.7.11", Port: "6379", Sockets: 12, Idle: []int{0, 0, 0, 1, 2, 4, 5, 0, 0, 0, 0, 0}, Armed: 0},
		{Address: "203.0.113.40", Port: "443", Sockets: 7, Idle: []int{1, 0, 0, 2, 0, 0, 1, 0, 3, 0, 0, 0}, Armed: 7},
		{Address: "2001:db8:0:12::40", Port: "443", Sockets: 6, Idle: []int{4, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, Armed: 3, Subflows: 6, Connections: 4, Pathless: 1},
		{Address: "10.20.9.2", Port: "9092", Sockets: 310, Idle: []int{290, 12, 5, 1, 1, 0, 1, 0, 0, 0, 0, 0}, Armed: 310},
		{Address: "other", Sockets: 29, Idle: []int{7, 3, 2, 4, 5, 0, 3, 2, 1, 0, 2, 0}, Stalled: 0, Armed: 11},
	}})
	flow := func(local, remote, command string, pid int, method hangup.Method, outcome hangup.Outcome, reason hangup.Reason, detail string) *hangup.ResultJSON {
		return &hangup.ResultJSON{
			FlowJSON: hangup.FlowJSON{
				Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Command: command, PID: pid,
			},
			Method: method, Outcome: outcome, Reason: reason, Detail: detail,
		}
	}
	d.setDecisions([]audit.Record{
		{Event: audit.EventAborted, Time: at(4 * time.Hour), Policy: "partner-api", Detail: "tcphup ended during the action"},
		{Event: audit.EventFlow, Time: at(3 * time.Hour), Policy: "partner-api", Destination: "203.0.113.40", Port: "443", Shadow: true, Flow: flow("10.20.0.1:40122", "203.0.113.40:443", "java", 2211, "shutdown", "planned", "", "")},
		{Event: audit.EventEnd, Time: at(3 * time.Hour), Policy: "partner-api", Destination: "203.0.113.40", Port: "443", Result: "shadow", Shadow: true, Flows: map[hangup.Outcome]int{"planned": 1}},
		{Event: audit.EventEnd, Time: at(41 * time.Minute), Policy: "stale-cache", Destination: "10.20.7.11", Port: "6379", Result: "breaker_open", Detail: "hung up 10 times within 1h0m0s: the breaker opens until 2026-03-14T09:45:12Z"},
		{Event: audit.EventEnd, Time: at(12 * time.Minute), Result: "not_allowed", Destination: "10.99.0.1", Port: "22", Policy: "stale-database", Detail: "10.99.0.1 is outside of what the policy allows"},
		{Event: audit.EventFlow, Time: at(2 * time.Minute), Policy: "stale-database", Destination: "10.20.0.5", Port: "5432", Flow: flow("10.20.0.1:51044", "10.20.0.5:5432", "report.py", 4093, "none", "refused", "sigpipe", "its next write would kill process 4093")},
		{Event: audit.EventBegin, Time: at(2 * time.Minute), Policy: "stale-database", Destination: "10.20.0.5", Port: "5432", Action: "1", Flows: map[hangup.Outcome]int{"planned": 2}},
		{Event: audit.EventFlow, Time: at(2 * time.Minute), Policy: "stale-database", Destination: "10.20.0.5", Port: "5432", Action: "1", Flow: flow("10.20.0.1:51004", "10.20.0.5:5432", "pgbouncer", 871, "shutdown", "closed", "", "")},
		{Event: audit.EventFlow, Time: at(2 * time.Minute), Policy: "stale-database", Destination: "10.20.0.5", Port: "5432", Action: "1", Flow: flow("10.20.0.1:51010", "10.20.0.5:5432", "pgbouncer", 871, "shutdown", "half_closed", "", "the peer holds its end")},
		{
			Event: audit.EventEnd, Time: at(2 * time.Minute), Policy: "stale-database", Destination: "10.20.0.5", Port: "5432", Action: "1", Result: "refused", Detail: "1 flow refused",
			Flows: map[hangup.Outcome]int{"closed": 1, "half_closed": 1, "refused": 1}, Spared: map[hangup.Reason]int{"evidence": 3}, Reconnects: &audit.Reconnects{SameAddress: 1},
		},
		{Event: audit.EventBegin, Time: at(time.Second), Policy: "running-policy", Destination: "10.20.0.4", Port: "5432", Action: "2", Flows: map[hangup.Outcome]int{"planned": 7}},
	})
	return d
}

// render returns the body and header of the response.
func render(t *testing.T, d *pageData) (string, http.Header) {
	t.Helper()
	response := httptest.NewRecorder()
	handler(func(*http.Request) *pageData { return d }, slog.New(slog.DiscardHandler)).
		ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/", nil))
	if response.Code != http.StatusOK {
		t.Fatalf("code %d: %s", response.Code, response.Body)
	}
	return response.Body.String(), response.Header()
}

// mustShow checks which parts a page has.
func mustShow(t *testing.T, page string, want, unwanted []string) {
	t.Helper()
	for _, part := range want {
		if !strings.Contains(page, part) {
			t.Errorf("the page does not show %s", part)
		}
	}
	for _, part := range unwanted {
		if strings.Contains(page, part) {
			t.Errorf("the page shows %s", part)
		}
	}
}

func TestStatusPage(t *testing.T) {
	page, header := render(t, examplePage(true))
	mustShow(t, page, []string{
		"payments-1", "0.1.0", "4f2c9d1", "<title>tcphup: armed on payments-1</title>",
		"10.20.0.5:5432", "[2001:db8:0:12::40]:443", "other (12 destinations)", "1 pathless",
		"<title>Sockets by idle time: 1 up to 5 s; 2 up to 30 s; 3 up to 5 min; 5 up to 10 min; 11 up to 30 min; 9 up to 1 h; 6 up to 2 h; 11 over 2 h</title>",
		"stale-cache", "1 open", "pgbouncer (871)", "sigpipe: its next write would kill process 4093",
		"10.20.0.1:51044 → 10.20.0.5:5432", "breaker_open", "grant CAP_NET_ADMIN",
		">1 closed<", ">1 half_closed<", ">1 refused<", ">refused: 1 sigpipe<", ">spared: 3 evidence<", ">1 reconnected to the same address<", ">running<", ">7 planned<",
		"<dt>stale sockets</dt><dd>48</dd>", ">2m5s<", ">3h<",
		"db.internal:5432", `<span class="name">10.20.0.5</span> <span class="aside"><span class="count">48 sockets</span>, since <time datetime="2026-03-14T09:22:53Z">2026-03-14 09:22:53</time></span>`,
		`<span class="name">10.20.0.6</span> <span class="aside"><span class="count">64 sockets</span></span>`, `<span class="name">10.20.30.1</span></li>`,
		`<span class="badge bad">failed</span> <time datetime="2026-03-14T09:26:45Z">2026-03-14 09:26:45</time>: ask 10.20.0.53:53`,
		"An address is former when", `<span class="badge bad">aborted</span>`, "tcphup ended during the action",
		`<time datetime="2026-03-14T09:24:53Z">2026-03-14 09:24:53</time>`,
	}, nil)
	// Longest idle first, other last; newest decision first.
	for _, order := range [][]string{
		{"10.20.0.5:5432</th>", "203.0.113.40:443</th>", "10.20.0.6:5432</th>", "10.20.7.11:6379</th>", "other (12"},
		{"running-policy", "report.py", "pgbouncer", "not_allowed", "breaker_open"},
		{"stale sockets", "outbound sockets", "Services and", "Destinations</h2>", "Recent alerts"},
		{"db.internal:5432</th>", ">48 sockets</span>, since", ">0 sockets</span>, since", "cache.internal:6379</th>", "allowed.internal</th>"},
	} {
		last := 0
		for _, text := range order {
			i := strings.Index(page, text)
			if i < last {
				t.Errorf("%s is out of order", text)
			}
			last = i
		}
	}
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if policy := header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") {
		t.Errorf("Content-Security-Policy: %s", policy)
	}
	for _, external := range []string{`src="http`, `href="http`, "url(", "@import", "//"} {
		if strings.Contains(strings.ReplaceAll(page, pageJS, ""), external) {
			t.Errorf("the page loads an external resource: %q", external)
		}
	}
}

// Untrusted text never becomes markup.
func TestStatusPageEscapes(t *testing.T) {
	d := examplePage(true)
	d.Host, d.Version, d.Failed = hostile, hostile, ""
	d.Mode.Explanation = hostile
	d.Policies = []alerts.PolicyStatus{{Name: hostile}}
	d.Checks = []actuator.Check{{Name: hostile, Detail: hostile, Fix: hostile}}
	d.Destinations[0].Name = hostile
	d.Destinations[0].Histogram.Title = hostile
	d.setServices([]services.Status{{Name: hostile, Port: 1, Looked: d.Now, Err: errors.New(hostile)}}, true)
	d.Decisions = nil
	d.setDecisions([]audit.Record{
		{Event: audit.EventEnd, Policy: hostile, Destination: hostile, Port: hostile, Result: hostile, Detail: hostile},
		{Event: audit.EventFlow, Policy: hostile, Flow: &hangup.ResultJSON{
			FlowJSON: hangup.FlowJSON{Command: hostile, PID: 1}, Method: hostile, Outcome: hostile, Reason: hostile, Detail: hostile, Error: hostile,
		}},
	})
	page, _ := render(t, d)
	if n := strings.Count(page, "<script>"); n != 1 {
		t.Errorf("%d scripts, want 1", n)
	}
	for _, bad := range []string{"<img", "<script>alert", "onerror=alert(2)>", "\x00"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if n := strings.Count(page, "&lt;script&gt;alert(1)&lt;/script&gt;"); n < 17 {
		t.Errorf("hostile text appears %d times, want at least 17", n)
	}
	if !strings.Contains(page, `\x1b[2J\x00\u202e (1)`) {
		t.Error("the process name is not escaped")
	}
	d.Failed = hostile
	if page, _ := render(t, d); strings.Contains(page, "<img") {
		t.Error("the error became markup")
	}
}

// Unauthenticated clients see no processes and peers.
func TestStatusPageUnauthenticated(t *testing.T) {
	page, _ := render(t, examplePage(false))
	for _, secret := range []string{
		"pgbouncer", "871", "report.py", "4093", "51044", "systemd", "10.99.0.1", "outside of what", "/api/v1/flows", "/api/v1/hangups",
		"internal:5432", "10.20.0.4", "10.20.30.1", "10.20.0.53", "SERVFAIL", "09:22:53",
	} {
		if strings.Contains(page, secret) {
			t.Errorf("an unauthenticated client sees %s", secret)
		}
	}
	for _, want := range []string{
		"stale-database", "half_closed", "sigpipe", "not_allowed", "grant CAP_NET_ADMIN", "--web.config.file", ">1 closed<", "spared: 3 evidence", "1 reconnected to the same address",
		`">db.internal</th>`, `data-label="Stale">48</td>`, `data-label="Former">2</td>`, `data-label="Current">1</td>`, `>failed</span>`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("an unauthenticated client does not see %s", want)
		}
	}
}

func TestOperatingMode(t *testing.T) {
	policies := []alerts.PolicyStatus{{Name: "a", Shadow: true}}
	for _, tt := range []struct {
		name   string
		status alerts.Status
		want   string
		text   string
	}{
		{name: "no receiver", status: alerts.Status{Mode: alerts.ModeExporter, Paused: "paused by the pause file"}, want: "exporter", text: "--alerts.listen-address"},
		{name: "paused", status: alerts.Status{Mode: alerts.ModeArmed, Paused: "paused by request", HasCredentials: true}, want: "paused", text: "by request"},
		{name: "flag", status: alerts.Status{Mode: alerts.ModeShadow, Shadow: true, HasCredentials: true, Policies: policies}, want: "shadow", text: "--alerts.shadow"},
		{name: "no credentials", status: alerts.Status{Mode: alerts.ModeShadow, Policies: policies}, want: "shadow", text: "--alerts.token-file"},
		{name: "no policy", status: alerts.Status{Mode: alerts.ModeShadow, HasCredentials: true}, want: "shadow", text: "no policy"},
		{name: "policies in shadow", status: alerts.Status{Mode: alerts.ModeShadow, HasCredentials: true, Policies: policies}, want: "shadow", text: "every policy"},
		{name: "armed", status: alerts.Status{Mode: alerts.ModeArmed, HasCredentials: true, Policies: policies}, want: "armed", text: "credentials"},
	} {
		if got := newOperatingMode(&tt.status); got.Name != tt.want || !strings.Contains(got.Explanation, tt.text) {
			t.Errorf("%s: %+v, want %s with %q", tt.name, got, tt.want, tt.text)
		}
	}
}

// The page marks a lower bound of the number of destinations.
func TestPageFoldedMore(t *testing.T) {
	d := new(pageData)
	d.setDestinations(&collector.Snapshot{Folded: 4001, FoldedMore: true, Destinations: []collector.Destination{
		{Address: "10.0.0.5", Port: "80", Sockets: 1, Idle: []int{1}}, {Address: "other", Sockets: 5000, Idle: []int{5000}},
	}})
	var texts []string
	for _, row := range d.Destinations {
		texts = append(texts, row.Name)
	}
	for _, total := range d.Totals {
		texts = append(texts, total.Value)
	}
	for _, want := range []string{"other (at least 4001 destinations)", "at least 4002"} {
		if !slices.Contains(texts, want) {
			t.Errorf("no %q in %q", want, texts)
		}
	}
}
