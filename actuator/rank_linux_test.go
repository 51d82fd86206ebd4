package actuator

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

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
		group := filepath.Join(root, "tcphup-test-"+strconv.Itoa(int(ownNumber(t))))
		if err := os.Mkdir(group, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			app.Kill()
			if err := os.Remove(group); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(app.PID())), 0o644); err != nil {
			t.Fatal(err)
		}
		app.Connect(server.Addr(), false, false)

		info, err := os.Stat(group)
		if err != nil {
			t.Fatal(err)
		}
		flow := sockets(t, server.Addr().Port())[0]
		if id := info.Sys().(*syscall.Stat_t).Ino; flow.CgroupID != id {
			t.Errorf("the socket's cgroup is %d, the directory's inode %d", flow.CgroupID, id)
		}
		if members := cgroupMembers([]uint64{flow.CgroupID}); len(members) != 1 || !members[app.PID()] {
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
		if ranked := rank(proc, pids, []sockdiag.Flow{flow}); len(ranked) != 2 || ranked[0].pid != os.Getpid() || ranked[1].pid != app.PID() {
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
	if got := rank(proc, []int{os.Getppid(), 1, os.Getpid()}, nil); got[0].pid != os.Getpid() {
		t.Errorf("got %v, want %d first", got, os.Getpid())
	}
}
