package alerts

import (
	"net/http"
	"strings"
	"testing"

	"tcphup/hangup"
)

// An alert that selects the pod of tcphup itself is refused, and acts in the other pods.
func TestOwnPod(t *testing.T) {
	own, young := podNamed("shop/tcphup"), podNamed("shop/young")
	own.Pod.Own, young.Pod.Own, young.Pod.Started = true, true, testNow
	for _, tt := range []struct {
		name          string
		pods          []hangup.Namespace
		result, acted string
		detail        string
	}{
		{"alone", []hangup.Namespace{own}, resultRefused, "", "the pod is that of tcphup itself, in which no alert acts; 0 pods, 1 of tcphup itself left out"},
		{"with another one", []hangup.Namespace{own, podNamed("shop/web-0")}, resultRefused, "shop/web-0", "2 flows hung up; 1 pod, 1 of tcphup itself left out"},
		{"younger than the alert", []hangup.Namespace{young}, resultDone, "", "no pod of that name is known to be older"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := nodeFixture(t, nodeRules(t), func(c *Config) {
				c.Pods = func() ([]hangup.Namespace, error) { return tt.pods, nil }
			})
			f.post(t, notify(podAlert("shop", "shop", "10.0.0.5"))).want(t, http.StatusOK, map[string]int{tt.result: 1})
			if got := strings.Join(f.hang.acted(), ";"); got != tt.acted {
				t.Errorf("acted in %q, want %q", got, tt.acted)
			}
			if r := lastRecord(f); !strings.HasPrefix(r.Detail, tt.detail) {
				t.Errorf("got %q, want %q", r.Detail, tt.detail)
			}
		})
	}
}
