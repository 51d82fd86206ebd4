package namespaces

import (
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// Process ids are assigned in turn and begin anew: the first process of a pod may have a higher
// id than many later ones. Otherwise a pod that starts processes all the time would always be
// younger than the alert.
func TestPrivilegedNodeStarted(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		node.ReusePID(1000)
		web := node.Start(pods.Spec{})
		n := nodeOf(node)
		first := discoverPods(t, n).pod(web).Started
		begun := time.Now()
		nstest.Eventually(t, "the clock of start times has advanced", func() bool { return time.Since(begun) > 50*time.Millisecond })
		node.ReusePID(100)
		for range maxOrigins + 1 {
			web.Add()
		}
		if of := discoverPods(t, n).pod(web); of.members[maxOrigins].pid >= web.Apps[0].PID() || !of.Started.Equal(first) {
			t.Errorf("started %v, want %v; processes %v", of.Started, first, of.members)
		}
	})
}

// A pod is known although its namespace has processes of another pod. A pod that has a namespace
// of its own, or uses that of the node, is only a visitor.
func TestPrivilegedNodeShared(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		web := node.Start(pods.Spec{Namespace: "shop", Name: "web-0"})
		debug := node.Start(pods.Spec{HostNetwork: true})
		agent := node.Start(pods.Spec{})
		for _, visitor := range []*pods.Pod{debug, agent} {
			web.Do(func() { visitor.Adopt(testapp.Start(t, testapp.Build(t)).PID()) })
		}
		found := discoverPods(t, nodeOf(node))
		if found.pod(web) != nil || found.pod(agent) == nil || found.HostNetwork != 1 {
			t.Errorf("found %+v", found)
		}
		if len(found.Shared) != 1 || found.Shared[0].UID != web.UID || found.Shared[0].Pod != (Pod{Namespace: "shop", Name: "web-0"}) || found.Shared[0].Started.IsZero() {
			t.Errorf("shared %+v, want pod %s", found.Shared, web.UID)
		}
	})
}
