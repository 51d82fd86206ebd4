package namespaces

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	libcap "kernel.org/pub/linux/libs/security/libcap/cap"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// threadID returns the namespace of the calling thread.
func threadID(t *testing.T) ID {
	t.Helper()
	id, err := statID("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return id
}

func TestPrivilegedDo(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		web := nstest.NewNamespace(t, "web")
		app := startIn(t, web, testapp.Build(t))
		found := discover(t)
		ns, own := found.of(t, app.PID()), found.of(t, os.Getpid())
		failed := errors.New("failed")
		calls := 0
		err := ns.Do(func() error {
			calls++
			if threadID(t) != ns.ID {
				t.Error("the thread is in another namespace")
			}
			return failed
		})
		if !errors.Is(err, failed) || calls != 1 {
			t.Errorf("got %v after %d calls", err, calls)
		}
		if err := own.Do(func() error { calls++; return failed }); !errors.Is(err, failed) || calls != 2 {
			t.Errorf("own namespace: got %v after %d calls", err, calls)
		}
		if err := ns.Do(func() error { runtime.Goexit(); return nil }); err == nil {
			t.Error("no error after the end of the goroutine")
		}

		// By name, after its last process.
		app.Kill()
		if err := ns.Do(func() error { return nil }); err != nil {
			t.Errorf("named namespace without a process: %v", err)
		}

		// /proc/self stays in the own namespace.
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 200 {
					if err := ns.Do(func() error {
						if id, err := statID("/proc/self/ns/net"); err != nil || id != own.ID {
							t.Errorf("/proc/self is in %v, %v", id, err)
						}
						return nil
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		// A thread ends after Do.
		nstest.Eventually(t, "no thread is in another namespace", func() bool {
			tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
			if err != nil {
				t.Fatal(err)
			}
			return !slices.ContainsFunc(tasks, func(task string) bool {
				id, err := statID(task)
				return err == nil && id != own.ID
			})
		})
		descriptors, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range descriptors {
			if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, "net:") {
				t.Errorf("%s is open: %s", fd, link)
			}
		}
	})
}

// A process id that belongs to a process of another namespace by now is not followed.
func TestPrivilegedDoReusedPID(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		one, two := startIn(t, nstest.NewNamespace(t, "one"), binary), startIn(t, nstest.NewNamespace(t, "two"), binary)
		found := discover(t)
		ns := *found.of(t, one.PID())
		ns.members, ns.file = found.of(t, two.PID()).members, ""
		err := ns.Do(func() error {
			t.Error("entered the namespace of another process")
			return nil
		})
		if !errors.Is(err, ErrEnded) {
			t.Errorf("got %v", err)
		}
	})
}

// After the end of a namespace another one may have its inode. Do does not enter that one.
func TestPrivilegedDoReusedInode(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		old := nstest.NewNamespace(t, "old")
		var apps []*testapp.App
		for range 12 {
			apps = append(apps, startIn(t, old, binary))
		}
		other := startIn(t, nstest.NewNamespace(t, "other"), binary)
		found := discover(t)
		ns := *found.of(t, apps[0].PID())
		for _, app := range apps {
			app.Kill()
		}
		ns.ID, ns.file = found.of(t, other.PID()).ID, ""
		err := ns.Do(func() error {
			t.Error("entered another namespace")
			return nil
		})
		if !errors.Is(err, ErrEnded) {
			t.Errorf("got %v", err)
		}
	})
}

// After Discover and Do a namespace ends with its last process, and Do reports that.
func TestPrivilegedDoEnded(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.Command(t, "ip", "netns", "add", "short")
		nstest.Command(t, "ip", "link", "add", "inside", "type", "veth", "peer", "name", "outside")
		nstest.Command(t, "ip", "link", "set", "inside", "netns", "short")
		binary := testapp.Build(t)
		app := testapp.StartCommand(t, exec.Command("ip", "netns", "exec", "short", binary))
		app.Call("ignore") // it runs in the namespace
		found := discover(t)
		short := *found.of(t, app.PID())
		if err := short.Do(func() error { _, err := net.InterfaceByName("inside"); return err }); err != nil {
			t.Fatal(err)
		}
		nstest.Command(t, "ip", "netns", "delete", "short")
		if err := short.Do(func() error { return nil }); err != nil {
			t.Errorf("without its name: %v", err)
		}
		app.Kill()
		err := short.Do(func() error { return nil })
		if !errors.Is(err, ErrEnded) {
			t.Errorf("after its end: %v", err)
		}
		nstest.Eventually(t, "the kernel removes the namespace with its device", func() bool {
			_, err := net.InterfaceByName("outside")
			return err != nil
		})
	})
}

// Do finds the namespace by any process in it, also if those seen first have ended.
func TestPrivilegedDoOtherProcess(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		web := nstest.NewNamespace(t, "web")
		var apps []*testapp.App
		for range 12 {
			apps = append(apps, startIn(t, web, binary))
		}
		ns := *discover(t).of(t, apps[0].PID())
		ns.file = ""
		for _, app := range apps[:11] {
			app.Kill()
		}
		if err := ns.Do(func() error { return nil }); err != nil {
			t.Error(err)
		}
	})
}

// setCapabilities sets the capabilities of this process. drop is removed from the effective
// set, and from the permitted one as well if permanently is set.
func setCapabilities(t *testing.T, drop libcap.Value, permanently bool) {
	t.Helper()
	without, err := libcap.GetProc().Dup()
	if err == nil {
		err = without.SetFlag(libcap.Effective, false, drop)
	}
	if err == nil && permanently {
		err = without.SetFlag(libcap.Permitted, false, drop)
	}
	if err == nil {
		err = without.SetProc()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Without CAP_SYS_PTRACE or CAP_SYS_ADMIN the error names it.
func TestPrivilegedDoWithoutCapability(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		app := startIn(t, nstest.NewNamespace(t, "web"), testapp.Build(t))
		found := discover(t)
		ns := *found.of(t, app.PID())
		file := ns.file
		mustFail := func(name string) {
			t.Helper()
			err := ns.Do(func() error {
				t.Error("entered")
				return nil
			})
			if !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), name) {
				t.Errorf("without %s: %v", name, err)
			}
		}
		ns.file = ""
		before := libcap.GetProc()
		none := libcap.NewSet()
		if err := none.FillFlag(libcap.Permitted, before, libcap.Permitted); err != nil {
			t.Fatal(err)
		}
		if err := none.SetProc(); err != nil {
			t.Fatal(err)
		}
		mustFail("CAP_SYS_PTRACE")
		if err := before.SetProc(); err != nil {
			t.Fatal(err)
		}
		ns.file = file
		setCapabilities(t, libcap.SYS_ADMIN, true)
		mustFail("CAP_SYS_ADMIN")
	})
}
