package collector

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/sockdiag"
	"tcphup/test/kit/addresses"
)

// flowsResponse is the decoded response of FlowsHandler.
type flowsResponse struct {
	Matched    int
	Truncated  bool
	Flows      []map[string]any
	Namespaces map[string]int
}

func getFlows(t *testing.T, h http.Handler, query string) (flowsResponse, []string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/flows?"+query, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", query, w.Code, w.Body)
	}
	var response flowsResponse
	if err := json.Unmarshal(w.Body.Bytes(), &response); err != nil {
		t.Fatalf("%s: %v\n%s", query, err, w.Body)
	}
	var local []string
	for _, f := range response.Flows {
		local = append(local, f["local"].(string))
	}
	return response, local
}

func TestFlowsHandler(t *testing.T) {
	const s = time.Second
	c := newTest(t, Config{}, &fakeKernel{flows: []sockdiag.Flow{
		flow("0.0.0.0:8080", "0.0.0.0:0", state(sockdiag.Listen)),
		flow("10.0.0.1:40000", "10.0.0.2:80", idle(10*s, 20*s, 3*s)),
		flow("10.0.0.1:40001", "10.0.0.2:80", idle(90*s, 80*s, 2*s)),
		flow("10.0.0.1:40002", "10.0.0.2:443", idle(30*s, 40*s, 1*s)),
		flow("10.0.0.1:40003", "10.0.0.2:80", state(sockdiag.SynSent)),
		flow("10.0.0.1:40004", "10.0.0.2:80", state(sockdiag.TimeWait)),
		flow("[2001:db8::1]:40005", "[2001:db8::2]:80", idle(5*s, 5*s, 5*s)),
		flow("10.0.0.1:8080", "10.9.9.9:50000", idle(1*s, 1*s, 1*s)),
		flow("10.0.0.1:40000", "10.0.0.2:80", mptcp(7, 0, 2), inode(100)),
	}})
	h := c.FlowsHandler()
	tests := []struct {
		query   string
		matched int
		want    []string
	}{
		{"", 5, []string{"10.0.0.1:40001", "10.0.0.1:40002", "10.0.0.1:40000", "[2001:db8::1]:40005", "10.0.0.1:40003"}},
		{"destination=&port=&sort=&limit=2", 5, []string{"10.0.0.1:40001", "10.0.0.1:40002"}},
		{"limit=1&destination=10.0.0.2&port=80", 3, []string{"10.0.0.1:40001"}},
		{"destination=10.0.0.0/24&port=0&sort=peer_silence", 4, []string{"10.0.0.1:40000", "10.0.0.1:40001", "10.0.0.1:40002", "10.0.0.1:40003"}},
		{"destination=::ffff:10.0.0.2&port=443", 1, []string{"10.0.0.1:40002"}},
		{"destination=2001:db8::/32", 1, []string{"[2001:db8::1]:40005"}},
		{"destination=[2001:db8::2]", 1, []string{"[2001:db8::1]:40005"}},
		{"direction=inbound", 1, []string{"10.0.0.1:8080"}},
		{"protocol=mptcp", 1, []string{"10.0.0.1:40000"}},
		{"destination=192.0.2.1", 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			response, local := getFlows(t, h, tt.query)
			if diff := cmp.Diff(tt.want, local); diff != "" {
				t.Errorf("flows (-want +got):\n%s", diff)
			}
			if response.Matched != tt.matched || response.Truncated != (tt.matched > len(tt.want)) {
				t.Errorf("matched %d, truncated %t", response.Matched, response.Truncated)
			}
		})
	}
	response, _ := getFlows(t, h, "limit=1")
	want := map[string]any{
		"protocol": "tcp", "local": "10.0.0.1:40001", "remote": "10.0.0.2:80", "state": "established", "direction": "outbound",
		"idle_seconds": 80.0, "peer_silence_seconds": 2.0, "stalled": false, "timer": "none", "timer_seconds": 0.0, "retries": 0.0,
		"receive_queue_bytes": 0.0, "send_queue_bytes": 0.0, "inode": 1.0, "uid": 0.0, "cookie": "2621505616",
	}
	if diff := cmp.Diff(want, response.Flows[0]); diff != "" {
		t.Errorf("flow (-want +got):\n%s", diff)
	}
}

func TestFlowsHandlerRejects(t *testing.T) {
	kernel := &fakeKernel{}
	c := newTest(t, Config{}, kernel)
	c.timeout = 10 * time.Millisecond
	h := c.FlowsHandler()
	get := func(method, query string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, (&url.URL{Path: "/api/v1/flows", RawQuery: query}).String(), nil))
		return w
	}
	for query, want := range map[string]string{
		"destination=db.internal":  "destination",
		"destination=10.0.0.0/33":  "destination",
		"destination=fe80::1%25lo": "destination",
		"destination=10.0.0.5/8":   "write 10.0.0.0/8",
		"destination=0.0.0.0":      "unspecified",
		"destination=ff02::1":      "multicast",
		"port=-1":                  "0 to 65535",
		"port=https":               "port",
		"direction=up":             "outbound, inbound, either",
		"protocol=udp":             "tcp, mptcp",
		"sort=size":                "idle, peer_silence, age",
		"limit=0":                  "1 to 10000",
		"limit=10001":              "1 to 10000",
		"limit=1&limit=2":          "repeated",
		"dest=10.0.0.1":            `unknown parameter \"dest\"`,
		"limit=%zz":                "malformed",
	} {
		w := get(http.MethodGet, query)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), strings.ReplaceAll(want, `\"`, `"`)) {
			t.Errorf("%s: %d %s, want 400 with %s", query, w.Code, w.Body, want)
		}
	}
	kernel.tcpErr = sockdiag.ErrInterrupted
	if w := get(http.MethodGet, ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("failed dump: %d", w.Code)
	}
	kernel.tcpErr, kernel.wait = nil, make(chan struct{})
	if w := get(http.MethodGet, ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("endless dump: %d", w.Code)
	}
}

// The parameter destination accepts the same addresses as all other inputs.
func TestFlowsQuerySharedInputs(t *testing.T) {
	for _, tt := range addresses.Inputs() {
		q, err := parseFlowsQuery("destination="+url.QueryEscape(tt.Text), false)
		switch {
		case tt.Fails != "":
			if err == nil || !strings.Contains(err.Error(), tt.Fails) {
				t.Errorf("%s: got %v, want an error with %q", tt.Text, err, tt.Fails)
			}
		case err != nil || q.selector.Destinations[0].String() != tt.Want:
			t.Errorf("%s: got %+v, %v; want %s", tt.Text, q, err, tt.Want)
		}
	}
}
