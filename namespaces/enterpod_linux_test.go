package namespaces

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
	libcap "kernel.org/pub/linux/libs/security/libcap/cap"

	"tcphup/internal/thread"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// mustNotEnter checks that Do reports the end of the pod's namespace.
func mustNotEnter(t *testing.T, n *PodNamespace, when string) {
	t.Helper()
	err := n.Do(func() error {
		t.Errorf("%s: entered", when)
		return nil
	})
	if !errors.Is(err, ErrEnded) {
		t.Errorf("%s: %v", when, err)
	}
}

func TestPrivilegedPodDo(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		n := nodeOf(node)
		web, db := node.Start(pods.Spec{Containers: 2}), node.Start(pods.Spec{})
		found := discoverPods(t, n)
		failed := errors.New("failed")
		for _, p := range []*pods.Pod{web, db} {
			id, err := OfProcess(p.Apps[0].PID())
			if err != nil {
				t.Fatal(err)
			}
			err = found.pod(p).Do(func() error {
				if got := threadID(t); got != id {
					t.Errorf("%v: in %v, want %v", p, got, id)
				}
				return failed
			})
			if !errors.Is(err, failed) {
				t.Errorf("%v: %v", p, err)
			}
		}

		// The only process of a pod enters the namespace of another one.
		mover := node.Start(pods.Spec{})
		left := discoverPods(t, n).pod(mover)
		if got := mover.Apps[0].Call("netns /proc/%d/ns/net", db.Apps[0].PID()); got != "netns ok" {
			t.Fatal(got)
		}
		mustNotEnter(t, left, "after its process has left")
		mover.End()

		// The second container has no process of the first one.
		web.Apps[0].Kill()
		if err := found.pod(web).Do(func() error { return nil }); err != nil {
			t.Errorf("by the second container: %v", err)
		}
		// Another pod's process joins the namespace, and is its last one.
		guest := node.Start(pods.Spec{In: &pods.Pod{Apps: web.Apps[1:]}})
		ns := *discoverPods(t, &Node{PodLogs: node.Logs, self: 2}).shared(t, found.pod(web), guest)
		web.Kill()
		mustNotEnter(t, &ns, "with another pod's process only")

		// The process id is that of another pod's process.
		ended := *found.pod(db)
		pid := db.Apps[0].PID()
		db.Kill()
		mustNotEnter(t, &ended, "after the end")
		node.ReusePID(pid)
		next := node.Start(pods.Spec{})
		if next.Apps[0].PID() != pid {
			t.Fatalf("process id %d was not reused: %d", pid, next.Apps[0].PID())
		}
		mustNotEnter(t, &ended, "with a reused process id")
		// Its namespace also has the inode.
		ended.ID = discoverPods(t, n).pod(next).ID
		mustNotEnter(t, &ended, "with a reused process id and inode")
	})
}

// shared returns the namespace of a pod with the processes that are in it now.
func (f *NodePods) shared(t *testing.T, of *PodNamespace, guest *pods.Pod) *PodNamespace {
	t.Helper()
	if f.Other != 1 {
		t.Fatalf("the namespace of two pods is not other: %+v", f.counts())
	}
	ns := *of
	ns.members = append([]member{{guest.Apps[0].PID(), guest.Apps[0].PID()}}, ns.members...)
	return &ns
}

// One thread enters the namespaces of pods one after the other, and also the own one, which it
// has left. CAP_SYS_ADMIN is effective on it in none of them, and after no error.
func TestPrivilegedPodDoHere(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		web, db, ended := node.Start(pods.Spec{}), node.Start(pods.Spec{}), node.Start(pods.Spec{})
		found := discoverPods(t, nodeOf(node))
		gone, own := found.pod(ended), *found.pod(db)
		own.Own = true // as if this process were in it
		ended.End()
		setCapabilities(t, libcap.SYS_ADMIN, false)
		before := threadID(t)
		errs := make(chan error, 10)
		<-thread.Go(func() {
			first := unix.Gettid()
			in := func(n *PodNamespace) {
				errs <- n.DoHere(func() error {
					if id := threadID(t); id != n.ID || unix.Gettid() != first {
						t.Errorf("in %v on thread %d, want %v on %d", id, unix.Gettid(), n.ID, first)
					}
					return mustNotAdminister()
				})
			}
			in(found.pod(web))
			in(&own)
			in(found.pod(web))
			mustNotCall := func() error { return errors.New("called") }
			if err := gone.DoHere(mustNotCall); !errors.Is(err, ErrEnded) {
				t.Errorf("after the end: %v", err)
			}
			if err := withinHere(-1, mustNotCall); !errors.Is(err, unix.EBADF) || threadID(t) != found.pod(web).ID {
				t.Errorf("setns fails: %v, in %v", err, threadID(t))
			}
			errs <- mustNotAdminister()
		})
		close(errs)
		for err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		if id := threadID(t); id != before {
			t.Errorf("another thread is in %v", id)
		}
	})
}
