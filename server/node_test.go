package server

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/namespaces"
)

// Alerts and self-tests leave out the pod of tcphup itself.
func TestOthers(t *testing.T) {
	var got []string
	own := namespaces.PodNamespace{UID: "own", Namespace: namespaces.Namespace{Own: true}}
	for _, n := range podNamespaces(others([]namespaces.PodNamespace{{UID: "a"}, own, {UID: "b"}})) {
		got = append(got, n.Name)
	}
	if diff := cmp.Diff([]string{"_unknown/a", "_unknown/b"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
