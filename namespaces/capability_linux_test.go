package namespaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	libcap "kernel.org/pub/linux/libs/security/libcap/cap"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// administrators returns the threads of this process whose effective set has CAP_SYS_ADMIN.
func administrators(t *testing.T) map[int]bool {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(files) == 0 {
		t.Errorf("read threads: %d, %v", len(files), err)
	}
	threads := make(map[int]bool)
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(status), "\nCapEff:\t")
		line, _, _ := strings.Cut(rest, "\n")
		effective, err := strconv.ParseUint(line, 16, 64)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if effective&(1<<unix.CAP_SYS_ADMIN) != 0 {
			tid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Error(err)
			}
			threads[tid] = true
		}
	}
	return threads
}

// TestPrivilegedDoCapability checks that CAP_SYS_ADMIN is effective on the thread of Do alone,
// and not while its function runs.
func TestPrivilegedDoCapability(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		web := node.Start(pods.Spec{})
		n := nodeOf(node)
		ns := discoverPods(t, n).pod(web)
		setCapabilities(t, libcap.SYS_ADMIN, false)
		if all := administrators(t); len(all) > 0 {
			t.Fatalf("the test is not without the capability: %v", all)
		}

		var lock sync.Mutex
		entered := make(map[int]bool)
		check := func() error {
			lock.Lock()
			entered[unix.Gettid()] = true
			lock.Unlock()
			if threadID(t) != ns.ID {
				return errors.New("in another namespace")
			}
			// A thread that starts meanwhile, and this one.
			started := make(chan error)
			go func() {
				runtime.LockOSThread()
				started <- mustNotAdminister()
			}()
			return errors.Join(mustNotAdminister(), <-started)
		}
		if err := ns.Do(func() error {
			if all := administrators(t); len(all) > 0 {
				t.Errorf("effective during Do: %v", all)
			}
			return check()
		}); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		var scrapes sync.WaitGroup
		for range 4 {
			scrapes.Go(func() {
				for range 300 {
					if err := ns.Do(check); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		go func() { scrapes.Wait(); close(done) }()
		seen := make(map[int]bool)
		for running := true; running; {
			for tid := range administrators(t) {
				seen[tid] = true
			}
			select {
			case <-done:
				running = false
			default:
			}
		}
		for tid := range seen {
			if !entered[tid] {
				t.Errorf("effective on thread %d, which entered no namespace", tid)
			}
		}
		if all := administrators(t); len(all) > 0 {
			t.Errorf("effective afterwards: %v", all)
		}
		t.Logf("effective on %d of the %d threads that entered the namespace", len(seen), len(entered))
	})
}

// mustNotAdminister returns an error if CAP_SYS_ADMIN is effective on the calling thread.
func mustNotAdminister() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	if data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0 {
		return fmt.Errorf("CAP_SYS_ADMIN is effective on thread %d", unix.Gettid())
	}
	return nil
}

// TestPrivilegedDoAsRoot checks that a capability that was effective stays so.
func TestPrivilegedDoAsRoot(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		app := startIn(t, nstest.NewNamespace(t, "web"), testapp.Build(t))
		ns := discover(t).of(t, app.PID())
		if err := ns.Do(func() error {
			if mustNotAdminister() == nil {
				return errors.New("CAP_SYS_ADMIN is not effective any more")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}
