package server

import (
	"testing"

	"tcphup/namespaces"
)

// The pod of tcphup itself is marked: alerts that select it are refused.
func TestOwnPod(t *testing.T) {
	own := namespaces.PodNamespace{UID: "own", Namespace: namespaces.Namespace{Own: true}}
	all := podNamespaces([]namespaces.PodNamespace{{UID: "a"}, own})
	if all[0].Pod.Own || !all[1].Pod.Own {
		t.Errorf("%+v, %+v", all[0].Pod, all[1].Pod)
	}
}
