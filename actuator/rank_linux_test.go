package actuator

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Processes in the cgroup of a socket are ranked first, after this process.
func TestPrivilegedCgroup(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := cgroupMount()
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			t.Fatalf("this test needs cgroup v2 mounted at %s: %v", root, err)
		}
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		group := moveToCgroup(t, app)
		app.Connect(server.Addr(), false, false)

		info, err := os.Stat(group)
		if err != nil {
			t.Fatal(err)
		}
		flow := sockets(t, server.Addr().Port())[0]
		if id := info.Sys().(*syscall.Stat_t).Ino; flow.CgroupID != id {
			t.Errorf("the socket's cgroup is %d, the directory's inode %d", flow.CgroupID, id)
		}
		if members := cgroupMembers([]uint64{flow.CgroupID}); len(members) != 1 || members[app.PID()] != flow.CgroupID {
			t.Errorf("members are %v, want process %d", members, app.PID())
		}

		proc, err := openProc()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(proc)
		pids, err := listProcesses(proc)
		if err != nil {
			t.Fatal(err)
		}
		if ranked, _ := rank(proc, pids, []sockdiag.Flow{flow}, nearLimit, nil); len(ranked) != 2 || ranked[0].pid != os.Getpid() || ranked[1].pid != app.PID() {
			t.Errorf("order is %+v, want this process and then process %d", ranked, app.PID())
		}
	})
}

// ownNumber returns a number that is unique among concurrent runs of the test: the inode
// of this process's pid namespace.
func ownNumber(t *testing.T) uint64 {
	t.Helper()
	info, err := os.Stat("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// This process is ranked first: a socket that it shares with another process must be
// found as its own before the scan stops.
func TestRankOwnFirst(t *testing.T) {
	proc, err := openProc()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	if got, _ := rank(proc, []int{os.Getppid(), 1, os.Getpid()}, nil, nearLimit, nil); got[0].pid != os.Getpid() {
		t.Errorf("got %v, want %d first", got, os.Getpid())
	}
}

// countingProc opens /proc of a kernel that counts the descriptors of a process.
func countingProc(t *testing.T) int {
	t.Helper()
	proc, err := openProc()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(proc) })
	switch counts := countsDescriptors(proc); {
	case !counts && kernelAtLeast6(2):
		t.Fatal("st_size of /proc/PID/fd has no count")
	case !counts:
		t.Skip("st_size of /proc/PID/fd needs Linux 6.2")
	}
	return proc
}

// Processes with the user of a flow come first, then those with few descriptors, also
// after the end of their first threads.
func TestPrivilegedRankDescriptors(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		proc := countingProc(t)
		binary := testapp.Build(t)
		many, ended, few, owner := testapp.StartAs(t, binary, 65534), testapp.StartAs(t, binary, 65534), testapp.StartAs(t, binary, 65534), testapp.StartAs(t, binary, 1)
		many.Call("hoard 2000")
		ended.Call("hoard 1000")
		few.Call("hoard 100")
		owner.Call("hoard 3000")
		endFirstThread(t, ended)
		pids, err := listProcesses(proc)
		if err != nil {
			t.Fatal(err)
		}
		ranked, _ := rank(proc, pids, []sockdiag.Flow{{UID: 1}}, nearLimit, nil)
		want := []int{os.Getpid(), owner.PID(), few.PID(), ended.PID(), many.PID()}
		var got []int
		for _, c := range ranked {
			got = append(got, c.pid)
			if near := c.pid == os.Getpid() || c.pid == owner.PID(); c.near != near {
				t.Errorf("process %d: near is %t", c.pid, c.near)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
