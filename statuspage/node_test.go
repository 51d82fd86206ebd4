package statuspage

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"tcphup/audit"
	"tcphup/collector"
	"tcphup/services"
)

// stateFunc is a Source.
type stateFunc func() State

func (f stateFunc) State(*http.Request) State { return f() }

// pageOf returns the main part of the page of a state for a query.
func pageOf(t *testing.T, state func() State, query string) string {
	t.Helper()
	response := httptest.NewRecorder()
	Handler(stateFunc(state), slog.New(slog.DiscardHandler)).ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/"+query, nil))
	if response.Code != http.StatusOK {
		t.Fatalf("code %d: %s", response.Code, response.Body)
	}
	_, main, _ := strings.Cut(response.Body.String(), "<main>")
	return main
}

// nodeState returns the state of a node with pods of two namespaces.
func nodeState() State {
	address := func(text string, sockets int) []services.Address {
		return []services.Address{{Addr: netip.MustParseAddr(text), Sockets: sockets}}
	}
	destination := func(namespace, pod, address, port string, sockets int) collector.Destination {
		return collector.Destination{Namespace: namespace, Pod: pod, Address: address, Port: port, Sockets: sockets, Idle: []int{sockets}}
	}
	now := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	return State{
		Private: true,
		Snapshot: &collector.Snapshot{
			Folded: 40, Inbound: 318, Node: &collector.NodeCounts{Read: 108, Skipped: 2, Node: 1, Other: 3, HostNetwork: 7},
			Destinations: []collector.Destination{
				destination("prod", "web-0", "10.20.0.5", "5432", 48), destination("prod", "web-1", "10.20.0.5", "5432", 9),
				destination("prod", "web-1", "other", "", 77), destination("dev", "web-0", "10.20.0.6", "5432", 3), destination("idle", "web-0", "10.20.0.9", "1", 0),
			},
		},
		Services: []services.Status{{
			Name: "db.internal", Port: 5432, Resolver: netip.MustParseAddrPort("10.96.0.10:53"), Looked: now,
			Current: address("10.20.0.6", 3), Former: address("10.20.0.5", 61),
			Pods: []services.PodSockets{
				{Namespace: "dev", Pod: "batch-0", Sockets: 4},
				{Namespace: "prod", Pod: "web-0", Sockets: 48, Shared: 2, LongestIdle: 3 * time.Hour},
				{Namespace: "prod", Pod: "web-1", Sockets: 9},
			},
		}},
		Decisions: []audit.Record{
			{Event: audit.EventEnd, Time: now, Policy: "of-dev", Namespace: "dev", Destination: "10.20.0.6", Result: "kept"},
			{Event: audit.EventEnd, Time: now, Policy: "of-prod", Namespace: "prod", Pod: "web-0", Destination: "10.20.0.5", Port: "5432", Result: "done"},
		},
	}
}

func TestStatusPageNode(t *testing.T) {
	const rowOfWeb0 = `<span class="aside">prod/</span><wbr>web-0</th>`
	const readLink = `<a class="name" href="?namespace=prod"`
	receiving := func() State {
		s := nodeState()
		s.Receiver.Mode = "armed"
		return s
	}
	for _, tt := range []struct {
		name, query    string
		state          func() State
		want, unwanted []string
	}{
		{
			name: "all namespaces",
			want: []string{
				"<dt>pods read</dt><dd>108</dd>", "<dt>pods skipped</dt><dd>2</dd>", "<dt>hostNetwork pods left out</dt><dd>7</dd>", "<dt>other namespaces left out</dt><dd>4</dd>",
				"--node.cpu-budget", `href="?" aria-current="page">All namespaces`, readLink + `>prod</a> <span class="aside">2 pods</span>`, `>dev</a> <span class="aside">1 pod</span>`,
				"<dt>stale sockets</dt><dd>61</dd>", "<dt>outbound sockets</dt><dd>137</dd>", "<dt>destinations</dt><dd>43</dd>", "<dt>inbound sockets</dt><dd>318</dd>",
				rowOfWeb0, "answered</span> by 10.96.0.10:53", ">61 sockets<", `data-label="Stale">48<`, `data-label="Longest">3h<`, `data-label="Shared">2<`,
				`data-label="Destination"><span class="name">10.20.0.5:5432<`, `data-label="Destination"><span class="name">other<`, "10.20.0.5:5432 from prod/web-0", "10.20.0.6:0 from dev",
			},
			unwanted: []string{"idle/", "only.", "--node.pod-logs", "sockets could not be read"},
		},
		{
			name: "one namespace", query: "?namespace=prod",
			want: []string{
				"<dt>pods read</dt><dd>108</dd>", `href="?">All namespaces`, readLink + ` aria-current="page">prod`, `>dev</a> <span class="aside">1 pod</span>`,
				`<span class="name">prod</span> only.`, "<dt>stale sockets</dt><dd>57</dd>", "<dt>outbound sockets</dt><dd>134</dd>", "<dt>destinations</dt><dd>over 2</dd>",
				rowOfWeb0, `data-label="Stale">57<`, "of-prod",
			},
			unwanted: []string{"dev/", "61", "batch-0", "inbound sockets", "of-dev"},
		},
		{
			name: "without folded destinations", query: "?namespace=dev",
			want: []string{"<dt>destinations</dt><dd>1</dd>", "<dt>stale sockets</dt><dd>4</dd>", "of-dev"}, unwanted: []string{"web-1", "of-prod"},
		},
		{
			name: "no such namespace", query: "?namespace=" + url.QueryEscape(hostile),
			want:     []string{"No outbound connections.", "<dt>stale sockets</dt><dd>0</dd>", `\x1b[2J\x00\u202e</span> only.`, readLink},
			unwanted: []string{rowOfWeb0, "<script>alert", "<img", "\x1b"},
		},
		{
			name: "unauthenticated", query: "?namespace=prod",
			state: func() State {
				s := receiving()
				s.Private = false
				return s
			},
			want: []string{rowOfWeb0, "of-prod", "of-dev"}, unwanted: []string{"10.96.0.10", "from prod"},
		},
		{
			name: "failed and unnamed pods",
			state: func() State {
				s := nodeState()
				s.Snapshot.Node = &collector.NodeCounts{Failed: 3, Unnamed: 1}
				return s
			},
			want:     []string{`<div class="alarm"><dt>pods failed</dt><dd>3</dd>`, "sockets could not be read", "--node.pod-logs"},
			unwanted: []string{"--node.cpu-budget"},
		},
		{
			name: "no node mode", query: "?namespace=prod",
			state: func() State {
				s := receiving()
				s.Snapshot.Node = nil
				for i := range s.Snapshot.Destinations {
					s.Snapshot.Destinations[i].Namespace, s.Snapshot.Destinations[i].Pod = "", ""
				}
				s.Services[0].Pods = nil
				return s
			},
			want:     []string{"<dt>stale sockets</dt><dd>61</dd>", "<dt>outbound sockets</dt><dd>137</dd>", `class="name">10.20.0.5:5432</th>`, "other (40 destinations)"},
			unwanted: []string{"Pods of this node", "Stale sockets by pod", ">Pod<", "namespace="},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.state == nil {
				tt.state = receiving
			}
			page := pageOf(t, tt.state, tt.query)
			mustShow(t, page, tt.want, tt.unwanted)
			if t.Failed() {
				t.Log(page)
			}
		})
	}
}

// The page of a large node is bounded, and counts what it leaves out.
func TestStatusPageLargeNode(t *testing.T) {
	const pods, destinations, maxBytes = 110, 20, 300 << 10
	state := func() State {
		s := State{Private: true, Snapshot: &collector.Snapshot{Node: &collector.NodeCounts{Read: pods}}}
		service := services.Status{Name: "db.internal", Port: 5432}
		for i := range pods {
			namespace, pod := fmt.Sprintf("namespace-%02d", i/2), fmt.Sprintf("a-deployment-with-a-long-name-7c9d8f6b5-%05d", i)
			for j := range destinations {
				s.Snapshot.Destinations = append(s.Snapshot.Destinations, collector.Destination{
					Namespace: namespace, Pod: pod, Address: fmt.Sprintf("10.0.%d.%d", i, j), Port: "443", Sockets: 12, Idle: []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
				})
			}
			service.Pods = append(service.Pods, services.PodSockets{Namespace: namespace, Pod: pod, Sockets: i})
		}
		s.Services = []services.Status{service}
		return s
	}
	page := pageOf(t, state, "")
	for pattern, want := range map[string]int{
		`data-label="Destination"`: pageNodeDestinations, `class="number alarm" data-label="Stale"`: pagePods, `href="\?namespace=`: pageNamespaces,
		"2170 more destinations": 1, " 90 more pods in the": 1, ">and 25 more: ": 1, "<dt>outbound sockets</dt><dd>26400</dd>": 1, "<dt>stale sockets</dt><dd>5995</dd>": 1,
		`href="\?namespace=namespace-54"`: 1, `href="\?namespace=namespace-24"`: 0,
	} {
		if got := len(regexp.MustCompile(pattern).FindAllString(page, -1)); got != want {
			t.Errorf("%s: %d times, want %d", pattern, got, want)
		}
	}
	if len(page) > maxBytes {
		t.Errorf("the page has %d bytes", len(page))
	}
	if selected := pageOf(t, state, "?namespace=namespace-24"); !strings.Contains(selected, `href="?namespace=namespace-24" aria-current="page"`) {
		t.Error("no link for the selected namespace")
	}
}
