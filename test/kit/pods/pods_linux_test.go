package pods

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// netnsOf returns the inode of the network namespace of a process.
func netnsOf(t *testing.T, pid int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// mustShow checks the cgroup of a process of a pod.
func mustShow(t *testing.T, pid int, p *Pod) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if want := "/pod" + p.UID + "/"; err != nil || !strings.Contains(string(b), want) {
		t.Errorf("cgroup of process %d: %q, %v; want %s", pid, b, err, want)
	}
}

func TestPrivilegedPods(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := NewNode(t, testapp.Build(t))
		own := netnsOf(t, os.Getpid())
		web := node.Start(Spec{Namespace: "shop", Name: "web-0", Containers: 2})
		db := node.Start(Spec{Static: true})
		host := node.Start(Spec{HostNetwork: true, Unnamed: true})
		guest := node.Start(Spec{In: web})

		for _, p := range []*Pod{web, db, host, guest} {
			for _, app := range p.Apps {
				mustShow(t, app.PID(), p)
			}
			_, err := os.Stat(p.logs())
			if known := err == nil; known != (p != host) {
				t.Errorf("%v: directory of logs: %v", p, err)
			}
		}
		webID := netnsOf(t, web.Apps[0].PID())
		if netnsOf(t, web.Apps[1].PID()) != webID || netnsOf(t, guest.Apps[0].PID()) != webID ||
			netnsOf(t, host.Apps[0].PID()) != own || webID == own || netnsOf(t, db.Apps[0].PID()) == webID {
			t.Error("network namespaces of pods")
		}
		if len(db.UID) != 32 || len(web.UID) != 36 || len(web.Apps) != 2 {
			t.Errorf("got %q with %d processes, %q", web.UID, len(web.Apps), db.UID)
		}

		// Each pod has the addresses for itself.
		to := netip.MustParseAddrPort("10.20.0.5:5432")
		for _, p := range []*Pod{web, db} {
			if got, _, _ := p.Load(to, 3); got != to {
				t.Errorf("%v listens on %v", p, got)
			}
		}
		var pid int
		if _, err := fmt.Sscanf(web.Apps[0].Call("fork"), "fork ok %d", &pid); err != nil {
			t.Fatal(err)
		}
		db.Adopt(pid)
		mustShow(t, pid, db)

		next := web.Replace()
		if next.UID == web.UID || next.String() != "shop/web-0" || len(next.Apps) != 2 {
			t.Errorf("replaced by %v, %s, %d processes", next, next.UID, len(next.Apps))
		}
		mustShow(t, next.Apps[1].PID(), next)
		next.End()
		if _, err := os.Stat(next.logs()); !os.IsNotExist(err) {
			t.Errorf("directory of logs after the end: %v", err)
		}
	})
}

// TestPrivilegedChurn checks that process ids are reused, and that the mounts end with the
// processes.
func TestPrivilegedChurn(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := NewNode(t, testapp.Build(t))
		ctx, stop := context.WithTimeout(t.Context(), nstest.HangGuard)
		defer stop()
		const number = 100
		pids, inodes := make(map[int]bool), make(map[uint64]bool)
		begin, started := time.Now(), 0
		n := node.Churn(ctx, 3, func(int) Spec { return Spec{} }, func(p *Pod) {
			pids[p.Apps[0].PID()], inodes[netnsOf(t, p.Apps[0].PID())] = true, true
			if started++; started == number {
				stop()
			}
		})
		if n != number || len(pids) > number/2 {
			t.Errorf("%d pods with %d process ids", n, len(pids))
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if got := strings.Count(string(mounts), "/cgroup "); err != nil || got > number/2 {
			t.Errorf("%d mounts, %v", got, err)
		}
		t.Logf("%d pods in %v, with %d process ids and %d inodes", n, time.Since(begin), len(pids), len(inodes))
	})
}
