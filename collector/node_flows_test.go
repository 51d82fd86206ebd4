package collector

import (
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/sockdiag"
)

// The flows of all pods, of a namespace and of a pod have the labels of their metrics.
func TestNodeFlowsHandler(t *testing.T) {
	pod := func(namespace, name string, seconds time.Duration) *fakePod {
		return &fakePod{namespace: namespace, name: name, uid: "uid-of-" + name, kernel: fakeKernel{flows: []sockdiag.Flow{
			flow("10.0.0.1:40000", "10.0.0.2:80", idle(seconds*time.Second, seconds*time.Second, 0)),
		}}}
	}
	n := &fakeNode{pods: []*fakePod{pod("prod", "web-0", 20), pod("test", "web-0", 30), pod("prod", "web-1", 10), pod("", "", 5)}}
	c := newNodeTest(t, Config{}, n)
	scrape(t, c)
	n.clock += time.Minute
	h := c.FlowsHandler()
	get := func(query string) (of []string, response flowsResponse) {
		t.Helper()
		response, _ = getFlows(t, h, query)
		for _, f := range response.Flows {
			of = append(of, f["namespace"].(string)+"/"+f["pod"].(string))
			if age := f["age_seconds"]; age != 60.0 {
				t.Errorf("%s: age is %v", query, age)
			}
		}
		return of, response
	}
	for query, want := range map[string][]string{
		"":                             {"test/web-0", "prod/web-0", "prod/web-1", "_unknown/uid-of-"},
		"limit=1":                      {"test/web-0"},
		"namespace=prod":               {"prod/web-0", "prod/web-1"},
		"pod=web-0&namespace=":         {"test/web-0", "prod/web-0"},
		"namespace=test&pod=web-0":     {"test/web-0"},
		"namespace=_unknown&sort=age":  {"_unknown/uid-of-"},
		"namespace=test&pod=web-1":     nil,
		"port=443":                     nil,
		"namespace=prod&limit=1":       {"prod/web-0"},
		"namespace=prod&protocol=tcp":  {"prod/web-0", "prod/web-1"},
		"destination=10.0.0.2&pod=web": nil,
	} {
		if got, _ := get(query); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	n.pods[0].enterErr, n.pods[1].kernel.tcpErr = os.ErrNotExist, os.ErrNotExist
	_, response := get("")
	if diff := cmp.Diff(map[string]int{"read": 2, "failed": 1, "ended": 1}, response.Namespaces); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	n.findErr = os.ErrPermission
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/flows", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("without pods: %d", w.Code)
	}
	// The parameters exist in node mode only.
	w = httptest.NewRecorder()
	newTest(t, Config{}, &fakeKernel{}).FlowsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/flows?pod=web-0", nil))
	if w.Code != http.StatusBadRequest {
		t.Errorf("pod without a node: %d", w.Code)
	}
}
