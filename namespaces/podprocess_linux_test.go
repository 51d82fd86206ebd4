package namespaces

import (
	"testing"
	"time"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

func TestParseStarted(t *testing.T) {
	const rest = " S 1 2 2 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 12345 1000 200 18446744073709551615\n"
	const want = 123450 * time.Millisecond
	for _, tt := range []struct {
		stat string
		ok   bool
	}{
		{"2 (app)" + rest, true},
		{"2 (a) S 1 (b c)" + rest, true},
		{"2 ())" + rest, true},
		{"2 (app) S 1 2", false},
		{"2 (app)" + rest[:len(" S 1 2 2 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 ")] + "x", false},
		{"", false},
	} {
		got, err := parseStarted(tt.stat)
		if (err == nil) != tt.ok || tt.ok && got != want {
			t.Errorf("%q: %v, %v", tt.stat, got, err)
		}
	}
}

// TestPrivilegedPodProcesses checks which processes are kept, and which are read again.
func TestPrivilegedPodProcesses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		web := node.Start(pods.Spec{})
		early := testapp.Start(t, testapp.Build(t))
		n := nodeOf(node)
		if got := discoverPods(t, n).counts(); got != (counts{Pods: 1, Node: 1}) {
			t.Fatalf("got %+v", got)
		}
		kept := func(pid int) bool { _, ok := n.processes.current[pid]; return ok }
		if !kept(web.Apps[0].PID()) || kept(early.PID()) {
			t.Errorf("kept: %v", n.processes.current)
		}
		// A runtime moves a process to its pod after it has started.
		host := node.Start(pods.Spec{HostNetwork: true})
		host.Kill()
		host.Adopt(early.PID())
		if got := discoverPods(t, n).counts(); got != (counts{Pods: 1, Node: 1, HostNetwork: 1}) {
			t.Errorf("after the move: %+v", got)
		}

		// The process has left the namespace since it was listed.
		id := discoverPods(t, n).pod(web).ID
		m := member{early.PID(), early.PID()}
		n.processes.former = nil
		if p, err := n.processes.of(m, id); err == nil {
			t.Errorf("process of another namespace: %+v", p)
		}
		// The processes that have ended are forgotten.
		early.Kill()
		discoverPods(t, n)
		if kept(early.PID()) {
			t.Error("a process that has ended is kept")
		}

		// Another pod's process has the id of a kept one.
		pid := web.Apps[0].PID()
		web.Kill()
		node.ReusePID(pid)
		next := node.Start(pods.Spec{})
		if next.Apps[0].PID() != pid || discoverPods(t, n).pod(next) == nil {
			t.Errorf("process %d is not of the pod of process %d", pid, next.Apps[0].PID())
		}
	})
}
