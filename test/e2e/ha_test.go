package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// TestPrivilegedPair checks a slow delivery with two clustered Alertmanagers, both of which
// then notify. Each flow is hung up only once, and new flows stay open.
func TestPrivilegedPair(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			name, settings string
			second         string // result of the second delivery
		}{
			{name: "cooldown", settings: "    limits: {rate: 5}", second: "cooldown"},
			{
				name: "evidence", second: "done",
				settings: "    evidence: {established_before_alert: true}\n    limits: {rate: 5, cooldown: 0s}",
			},
		} {
			t.Run(tt.name, func(t *testing.T) { pair(t, tt.settings, tt.second) })
		}
	})
}

const secondAlertmanagerAddress = "127.0.0.1:9193"

func pair(t *testing.T, settings, second string) {
	// At 5 flows a second this takes several times the second peer's wait.
	const flows = 25
	server := startBackend(t, "127.0.0.1:0")
	dial(t, true, flows, server.addr())
	server.awaitOpen(flows)
	serveArmed(t, withAges, "--config.file="+policyFile(t, settings))
	awaitSeen(t, server, flows)

	peer := func(address string, own, other int) alertmanager {
		return startAlertmanager(t, alertmanagerConfig{address: address, groupBy: "alertname", interval: "5m", token: token, args: []string{
			fmt.Sprintf("--cluster.listen-address=127.0.0.1:%d", own), fmt.Sprintf("--cluster.advertise-address=127.0.0.1:%d", own),
			fmt.Sprintf("--cluster.peer=127.0.0.1:%d", other), "--cluster.peer-timeout=1s", "--cluster.settle-timeout=1s",
		}})
	}
	// The first starts without its peer; the second joins the first.
	one := peer(alertmanagerAddress, 9094, 9095)
	two := peer(secondAlertmanagerAddress, 9095, 9094)
	for _, am := range []alertmanager{one, two} {
		nstest.Eventually(t, "both are members", func() bool {
			n, _ := sampleOf(t, am.url, "alertmanager_cluster_members")
			return n == 2
		})
	}
	same := alertAbout(server.addr())
	one.post(same)
	two.post(same)

	awaitSample(t, answered200, 2)
	nstest.Eventually(t, "the application has all its connections again", func() bool {
		open, ended := server.counts()
		return open == flows && ended == flows
	})
	server.mustCount(flows, flows)
	mustSample(t, flowsClosed, flows)

	closed := make(map[string]int) // by cookie
	results := make(map[string]string)
	for _, r := range hangups(t) {
		if r.Flow == nil {
			results[r.ExternalURL] = r.Result
			continue
		}
		if r.Flow.Outcome != "refused" { // a new flow that no scrape has seen
			closed[r.Flow.Cookie]++
		}
	}
	if got := slices.Sorted(maps.Values(results)); len(results) != 2 || !slices.Contains(got, "done") || !slices.Contains(got, second) {
		t.Errorf("decisions by sender: %v, want done and %s", results, second)
	}
	if len(closed) != flows || slices.Max(slices.Collect(maps.Values(closed))) != 1 {
		t.Errorf("flows hung up, by cookie: %v, want %d flows once each", closed, flows)
	}
}

// withAges is the argument of tcphup serve that awaitSeen requires.
const withAges = "--collector.histograms=age"

// awaitSeen scrapes until tcphup has a first-seen time for all flows to the server, and
// until they are older than its resolution.
func awaitSeen(t testing.TB, server *backend, flows int) {
	t.Helper()
	labels := fmt.Sprintf(`{destination=%q,port="%d"}`, server.addr().Addr(), server.addr().Port())
	nstest.Eventually(t, "the flows have an age", func() bool {
		count, _ := sample(t, "tcphup_socket_age_seconds_count"+labels)
		sum, _ := sample(t, "tcphup_socket_age_seconds_sum"+labels)
		// Ages have a resolution of 0.1 s; one dump has recorded all flows.
		return count == float64(flows) && sum >= 0.3*float64(flows)
	})
}

// record is an audit record.
type record struct {
	Time        time.Time      `json:"time"`
	Event       string         `json:"event"`
	Action      string         `json:"action"`
	Policy      string         `json:"policy"`
	Fingerprint string         `json:"fingerprint"`
	StartsAt    time.Time      `json:"starts_at"`
	ExternalURL string         `json:"external_url"`
	Destination string         `json:"destination"`
	Port        string         `json:"port"`
	Result      string         `json:"result"`
	Detail      string         `json:"detail"`
	Shadow      bool           `json:"shadow"`
	Flows       map[string]int `json:"flows"`
	Flow        *flowRecord    `json:"flow"`
	User        *userRecord    `json:"user"`
}

type userRecord struct {
	UID      int    `json:"uid"`
	Login    string `json:"login"`
	Terminal string `json:"terminal"`
}

type flowRecord struct {
	Local       string   `json:"local"`
	Remote      string   `json:"remote"`
	Cookie      string   `json:"cookie"`
	PID         int      `json:"pid"`
	Command     string   `json:"command"`
	State       string   `json:"state"`
	IdleSeconds *float64 `json:"idle_seconds"`
	Method      string   `json:"method"`
	Outcome     string   `json:"outcome"`
	Reason      string   `json:"reason"`
	Detail      string   `json:"detail"`
	TookSeconds float64  `json:"took_seconds"`
}

// hangups returns the audit records in tcphup's memory.
func hangups(t testing.TB) []record {
	t.Helper()
	body, err := get(t, "http://"+tcphupAddress+"/api/v1/hangups")
	if err != nil {
		t.Fatal(err)
	}
	var page struct {
		Records []record `json:"records"`
	}
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		t.Fatal(err)
	}
	return page.Records
}
