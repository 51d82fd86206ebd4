package namespaces

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

func discover(t *testing.T) *Found {
	t.Helper()
	found, err := Discover()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// of returns the namespace of a process as Discover found it.
func (f *Found) of(t *testing.T, pid int) *Namespace {
	t.Helper()
	id, err := statID(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Namespaces, func(n Namespace) bool { return n.ID == id })
	if i < 0 {
		t.Fatalf("the namespace of process %d is not among %+v", pid, f.Namespaces)
	}
	return &f.Namespaces[i]
}

// startIn starts an application in a namespace.
func startIn(t *testing.T, ns *nstest.Namespace, binary string) (app *testapp.App) {
	t.Helper()
	ns.Do(func() { app = testapp.Start(t, binary) })
	return app
}

func TestPrivilegedDiscover(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		web, db := nstest.NewNamespace(t, "web"), nstest.NewNamespace(t, "db")
		nstest.Command(t, "ip", "netns", "add", "empty")
		first, second, other := startIn(t, web, binary), startIn(t, web, binary), startIn(t, db, binary)
		// /proc/PID/ns/net does not exist after the end of the first thread.
		if got := second.Call("thread"); got != "thread ok" {
			t.Fatal(got)
		}
		other.Call("thread")
		// A file that is left over is no namespace.
		if err := os.WriteFile("/run/netns/left", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, "the first thread has ended", func() bool {
			_, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", other.PID()))
			return errors.Is(err, os.ErrNotExist)
		})

		found := discover(t)
		type summary struct {
			own       bool
			name      string
			processes int
			pid       int
		}
		var got []summary
		for i := range found.Namespaces {
			n := &found.Namespaces[i]
			got = append(got, summary{n.Own, n.Name, n.Processes(), n.PID()})
		}
		want := []summary{{true, "", 1, os.Getpid()}, {false, "web", 2, first.PID()}, {false, "db", 1, other.PID()}, {false, "empty", 0, 0}}
		if !slices.Equal(got, want) || found.Others() != 2 || found.Unreadable != 0 || found.Hidden {
			t.Errorf("got %+v of %+v, want %+v", got, found, want)
		}

		for pid, name := range map[int]string{first.PID(): "web", other.PID(): "db", os.Getpid(): ""} {
			id, err := OfProcess(pid)
			i := slices.IndexFunc(found.Namespaces, func(n Namespace) bool { return n.ID == id })
			if err != nil || i < 0 || found.Namespaces[i].Name != name {
				t.Errorf("process %d: %v, %v", pid, id, err)
			}
		}
		other.Kill()
		if _, err := OfProcess(other.PID()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a process that has ended: %v", err)
		}
	})
}

// Another user sees its own namespace and counts the other processes.
func TestPrivilegedDiscoverUnreadable(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		app := startIn(t, nstest.NewNamespace(t, "web"), binary)
		testapp.Start(t, binary)
		var found *Found
		var err, processErr error
		asNobody(t, func() {
			if found, err = Discover(); err == nil {
				_, processErr = OfProcess(app.PID())
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if found.Unreadable != 2 || found.Others() != 0 {
			t.Errorf("got %+v, want 2 unreadable processes", found)
		}
		if !errors.Is(processErr, os.ErrPermission) {
			t.Errorf("process: %v", processErr)
		}
	})
}

// asNobody calls fn with the credentials of another user, on a thread that ends with it.
func asNobody(t *testing.T, fn func()) {
	t.Helper()
	done := make(chan unix.Errno)
	go func() {
		runtime.LockOSThread()
		const nobody = 65534
		// The raw system call changes the calling thread alone.
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody)
		if errno == 0 {
			fn()
		}
		done <- errno
	}()
	if errno := <-done; errno != 0 {
		t.Fatal(errno)
	}
}

// The names are from the cgroup of a process that is still in the namespace.
func TestPrivilegedOrigin(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		inCgroup := func(ns *nstest.Namespace, path string) *testapp.App {
			app := startIn(t, ns, binary)
			bindCgroup(t, app.PID(), "0::"+path+"\n")
			return app
		}
		const uidB = "1b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b"
		tests := []struct {
			name  string
			paths []string
			want  Origin
		}{
			{"pod", []string{"/kubepods/pod" + uid + "/" + id}, Origin{PodUID: uid, Container: id}},
			{"containers", []string{"/kubepods/pod" + uid + "/" + id, "/kubepods/pod" + uid + "/" + other}, Origin{PodUID: uid}},
			{"visitor", []string{"/system.slice/ssh.service", "/kubepods/pod" + uid + "/" + id}, Origin{PodUID: uid, Container: id}},
			{"pods", []string{"/kubepods/pod" + uid + "/" + id, "/kubepods/pod" + uidB + "/" + other}, Origin{}},
			{"docker", []string{"/docker/" + id, "/docker/" + other}, Origin{Container: id}},
			{"unit", []string{"/system.slice/nginx.service"}, Origin{Unit: "nginx.service"}},
		}
		var apps []*testapp.App
		for _, tt := range tests {
			ns := nstest.NewNamespace(t, tt.name)
			for i, path := range tt.paths {
				if app := inCgroup(ns, path); i == 0 {
					apps = append(apps, app)
				}
			}
		}
		found := discover(t)
		for i, tt := range tests {
			if got := found.of(t, apps[i].PID()).Origin(); got != tt.want {
				t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
			}
		}

		// The process id belongs to a process of another namespace by now.
		reused := *found.of(t, apps[0].PID())
		reused.members = found.of(t, apps[5].PID()).members
		if got := reused.Origin(); got != (Origin{}) {
			t.Errorf("another process: %+v", got)
		}
	})
}

// bindCgroup mounts a file over /proc/PID/cgroup in the mount namespace of the test.
func bindCgroup(t *testing.T, pid int, text string) {
	t.Helper()
	file := fmt.Sprintf("%s/cgroup", t.TempDir())
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "--bind", file, fmt.Sprintf("/proc/%d/cgroup", pid)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
