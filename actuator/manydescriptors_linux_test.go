package actuator

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// nobody is a user without rights.
const nobody = 65534

// Processes of a user without rights, with more descriptors than a scan reads in
// 3*othersLimit, do not delay a hang-up, even if that user has a matching flow.
func TestPrivilegedManyDescriptors(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		proc := countingProc(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		binary := testapp.Build(t)
		hoarder := testapp.StartAs(t, binary, nobody)
		// It would end a scan in the order of process ids late.
		app := testapp.Start(t, binary)
		app.Call("ignore")
		full := hoard(t, proc, hoarder)

		t.Run("without a flow", func(t *testing.T) {
			fd := app.Connect(server.Addr(), false, false)
			report := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr())})
			t.Logf("all processes: %v; owners: %v, %d processes unsearched", full, report.OwnersTook, report.Unsearched)
			r := only(t, report)
			expect(t, r, hangup.Closed, "", hangup.Shutdown)
			if report.OwnersTook > full*2/3 {
				t.Errorf("the scan took %v of %v for all processes", report.OwnersTook, full)
			}
			if report.Unsearched == 0 || r.Detail == "" {
				t.Errorf("%d processes unsearched, detail %q: want some", report.Unsearched, r.Detail)
			}
			app.Call("close %d", fd)
		})
		t.Run("with a flow", func(t *testing.T) {
			app.Connect(server.Addr(), false, false)
			hoarder.Connect(server.Addr(), false, false)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			a := New(Config{})
			var took time.Duration
			begun := time.Now()
			a.shutdown = func(fd int) error {
				took = time.Since(begun)
				defer cancel()
				return unix.Shutdown(fd, unix.SHUT_RDWR)
			}
			report, err := a.HangUp(ctx, hangup.Request{Selector: to(server.Addr()), Method: hangup.Shutdown})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("all processes: %v; first hang-up: %v", full, took)
			if took > full*2/3 {
				t.Errorf("the first hang-up took %v of %v for all processes", took, full)
			}
			want := map[uint32]hangup.Method{0: hangup.Shutdown, nobody: hangup.None}
			for _, r := range report.Results {
				if r.Method != want[r.Flow.UID] {
					t.Errorf("flow of user %d: outcome %s, method %s, want %s: %s", r.Flow.UID, r.Outcome, r.Method, want[r.Flow.UID], r.Detail)
				}
			}
		})
	})
}

// hoard makes an application and its children open descriptors, and returns the duration of
// a scan of all of them.
func hoard(t *testing.T, proc int, app *testapp.App) time.Duration {
	t.Helper()
	if got := app.Call("hoard 15000"); got != "hoard ok" {
		t.Fatalf("application: %s", got)
	}
	pids := []int{app.PID()}
	scan := func(children int) time.Duration {
		for range children {
			pids = append(pids, startHolder(t, app, "fork default"))
		}
		begun := time.Now()
		if _, err := scanProcesses(t.Context(), proc, nearby(pids...), []uint32{1}, false); err != nil {
			t.Fatal(err)
		}
		return time.Since(begun)
	}
	const few = 20
	full := scan(few)
	for full < 3*othersLimit {
		full = scan(max(1, int(float64(len(pids))*(float64(3*othersLimit)/float64(full)-1))))
	}
	return full
}

// The scan for a flow of a user does not include the processes of another user that also
// has a flow, if those have too many descriptors. It includes one user in any case.
func TestAffordable(t *testing.T) {
	processes := []candidate{
		{pid: 1, uid: 10, descriptors: 40},
		{pid: 2, uid: 11, descriptors: 50},
		{pid: 3, uid: 12, cgroup: 7, descriptors: 1000},
		{pid: 4, uid: 13, descriptors: 5000},
	}
	flow := func(uid uint32, cgroup uint64) sockdiag.Flow { return sockdiag.Flow{UID: uid, CgroupID: cgroup} }
	for _, tt := range []struct {
		name  string
		flows []sockdiag.Flow
		want  int
	}{
		{"one", []sockdiag.Flow{flow(13, 0), flow(13, 0)}, 2},
		{"all", []sockdiag.Flow{flow(10, 0), flow(11, 0)}, 2},
		{"expensive user", []sockdiag.Flow{flow(13, 0), flow(10, 0), flow(11, 0)}, 2},
		{"expensive cgroup", []sockdiag.Flow{flow(11, 7), flow(10, 0)}, 1},
		{"unknown cgroup", []sockdiag.Flow{flow(11, 0), flow(10, 8)}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := affordable(processes, tt.flows, 100)
			if len(got) != tt.want {
				t.Errorf("got %+v, want %d flows", got, tt.want)
			}
			for _, f := range got {
				if len(tt.flows) > tt.want && (f.UID == 13 || f.CgroupID == 7) {
					t.Errorf("got the expensive flow %+v", f)
				}
			}
		})
	}
}

// A flow whose owners were not searched for is not destroyed: it may belong to tcphup.
func TestDeferredIsNotDestroyed(t *testing.T) {
	a := New(Config{})
	destroyed := 0
	a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error {
		destroyed++
		return nil
	}
	x := &action{Actuator: a, Request: hangup.Request{Method: hangup.Destroy}}
	flow := sockdiag.Flow{State: sockdiag.Established, Inode: 1}
	deferred := &target{in: new(namespace), Result: hangup.Result{Flow: flow}}
	if x.hangUpOne(t.Context(), deferred, &flow, false); deferred.phase != phaseOwnerLost || destroyed != 0 {
		t.Errorf("phase is %d, %d destroys", deferred.phase, destroyed)
	}
	deferred.ownersAt = time.Now()
	if x.hangUpOne(t.Context(), deferred, &flow, false); deferred.phase != phaseHungUp || destroyed != 1 {
		t.Errorf("after the search: phase is %d, %d destroys", deferred.phase, destroyed)
	}
}
