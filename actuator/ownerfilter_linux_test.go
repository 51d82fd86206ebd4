package actuator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// filtered is an application with a name, a user and a cgroup of its own.
type filtered struct {
	*testapp.App
	name   string
	uid    uint32
	cgroup string
}

func startFiltered(t *testing.T, binary, name string, uid uint32) *filtered {
	t.Helper()
	app := testapp.Start(t, binary)
	app.Call("ignore")
	f := &filtered{App: app, name: name, uid: uid}
	f.cgroup = strings.TrimPrefix(moveToCgroup(t, app), cgroupMount())
	if got := app.Call("rename %s", name); got != "rename ok" {
		t.Fatal(got)
	}
	if got := app.Call("become %d", uid); got != "become ok" {
		t.Fatal(got)
	}
	return f
}

// everyFilter returns a filter of each kind, and one of all kinds, that selects the application.
func (f *filtered) everyFilter() map[string]hangup.OwnerFilter {
	all := hangup.OwnerFilter{PIDs: []int{f.PID()}, Commands: []string{f.name}, UIDs: []uint32{f.uid}, Cgroups: []string{f.cgroup}}
	return map[string]hangup.OwnerFilter{
		"pid": {PIDs: all.PIDs}, "command": {Commands: all.Commands}, "user": {UIDs: all.UIDs}, "cgroup": {Cgroups: all.Cgroups}, "all": all,
	}
}

// An owner filter selects the connections of its processes, and counts those of unknown
// processes. Other counts have no connections of other processes.
func TestPrivilegedOwnerFilter(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		ours, other := startFiltered(t, binary, "ours", 65533), startFiltered(t, binary, "other", 65532)
		fd := ours.Connect(server.Addr(), false, false)
		local := flowTo(t, server.Addr()).Local
		kept := other.Connect(server.Addr(), false, false)
		other.Call("inflight %d", other.Connect(server.Addr(), false, false))
		for name, filter := range ours.everyFilter() {
			for _, method := range []hangup.Method{hangup.Shutdown, hangup.Destroy} {
				report := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Owner: filter, Method: method, DryRun: true})
				if r := only(t, report); r.Flow.Local != local || r.PID != ours.PID() || r.Outcome != hangup.Planned {
					t.Errorf("%s, %s: %+v", name, method, r)
				}
				if report.Covered != 1 || report.UnknownOwner != 1 || report.OtherOwner != 1 || report.LeftAlone != 0 {
					t.Errorf("%s, %s: covered %d, unknown owner %d, other owner %d, left alone %d", name, method, report.Covered, report.UnknownOwner, report.OtherOwner, report.LeftAlone)
				}
			}
		}
		for name, filter := range map[string]hangup.OwnerFilter{
			"two kinds":      {PIDs: []int{ours.PID()}, Commands: []string{other.name}},
			"no process":     {PIDs: []int{1 << 22}},
			"prefix of name": {Cgroups: []string{ours.cgroup[:len(ours.cgroup)-1]}},
		} {
			if report := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Owner: filter}); len(report.Results) != 0 {
				t.Errorf("%s: %+v", name, report.Results)
			}
		}
		evidence := to(server.Addr())
		evidence.MinIdle = time.Hour
		report := mustHangUp(t, New(Config{}), hangup.Request{Selector: evidence, Owner: hangup.OwnerFilter{PIDs: []int{ours.PID()}}})
		if n := report.Unselected[hangup.ReasonEvidence]; n != 1 || len(report.Results) != 0 {
			t.Errorf("idle for an hour: %d spared, %+v", n, report.Results)
		}

		selector := sockdiag.Selector{Destinations: sockdiag.Everywhere()}
		r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, Owner: hangup.OwnerFilter{PIDs: []int{ours.PID()}}}))
		expect(t, r, hangup.Closed, "", hangup.Shutdown)
		if got := ours.Call("recv %d", fd); got != "recv ok 0" {
			t.Errorf("application: %q", got)
		}
		if got := other.Call("write %d", kept); got != "write ok 1" {
			t.Errorf("other application: %q", got)
		}
	})
}

// A flow whose holders change after the selection is refused by each owner filter and each
// method.
func TestPrivilegedOwnerChanges(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		move := func(t *testing.T, f *filtered, _ int) {
			procs := filepath.Join(cgroupMount(), "cgroup.procs")
			if err := os.WriteFile(procs, []byte(strconv.Itoa(f.PID())), 0); err != nil {
				t.Fatal(err)
			}
		}
		fork := func(_ *testing.T, f *filtered, _ int) { f.Call("fork") }
		for _, tt := range []struct {
			name, filter string
			method       hangup.Method                    // "" means both
			before       func(*testing.T, *filtered, int) // the selection
			change       func(*testing.T, *filtered, int)
		}{
			{name: "another name", filter: "command", change: func(_ *testing.T, f *filtered, _ int) { f.Call("rename another") }},
			{name: "another user", filter: "user", change: func(_ *testing.T, f *filtered, _ int) { f.Call("become 0") }},
			{name: "another cgroup", filter: "cgroup", change: move},
			{name: "another process", filter: "pid", change: func(t *testing.T, f *filtered, fd int) {
				f.Call("fork")
				f.Call("close %d", fd)
			}},
			{name: "shared with another process", filter: "pid", before: fork},
			{name: "shared after a slow lookup", filter: "pid", change: func(_ *testing.T, f *filtered, _ int) {
				f.Call("fork")
				time.Sleep(2 * ownersFresh)
			}},
			{name: "no process", filter: "pid", method: hangup.Destroy, change: func(_ *testing.T, f *filtered, fd int) { f.Call("inflight %d", fd) }},
		} {
			for _, method := range []hangup.Method{hangup.Shutdown, hangup.Destroy} {
				if tt.method != "" && tt.method != method {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s", tt.name, method), func(t *testing.T) {
					server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
					f := startFiltered(t, binary, "ours", 65533)
					fd := f.Connect(server.Addr(), false, false)
					filter := f.everyFilter()[tt.filter]
					if tt.before != nil {
						tt.before(t, f, fd)
					}
					a := New(Config{})
					change := sync.OnceFunc(func() {
						if tt.change != nil {
							tt.change(t, f, fd)
						}
					})
					beforeTurn(a, func(*sockdiag.Flow) { change() })
					r := only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Owner: filter, Method: method, Linger: time.Second}))
					expect(t, r, hangup.Refused, hangup.ReasonIdentity, hangup.None)
					if f := flowTo(t, server.Addr()); f.State != sockdiag.Established {
						t.Errorf("state is %s", f.State)
					}
				})
			}
		}
	})
}

// The final RST for a dead peer needs a matching owner too.
func TestPrivilegedOwnerOfShutDownFlow(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: nstest.Peer4 + ":0"}) })
		f := startFiltered(t, testapp.Build(t), "ours", 65533)
		f.Connect(server.Addr(), false, false)
		peer.Cut("one", "two")
		a := New(Config{})
		a.setUserTimeout = func(int, time.Duration) error { return nil }
		r := only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Method: hangup.Shutdown, Linger: time.Millisecond}))
		expect(t, r, hangup.Lingering, "", hangup.Shutdown)
		rename := sync.OnceFunc(func() { f.Call("rename another") })
		beforeTurn(a, func(*sockdiag.Flow) { rename() })
		request := hangup.Request{Selector: to(server.Addr()), Owner: hangup.OwnerFilter{Commands: []string{"ours"}}, Linger: time.Millisecond}
		expect(t, only(t, mustHangUp(t, a, request)), hangup.Refused, hangup.ReasonIdentity, hangup.None)
		if flow := flowTo(t, server.Addr()); flow.State != sockdiag.FinWait1 {
			t.Errorf("state is %s", flow.State)
		}
	})
}

// A flow that leaves the selected states after the selection is refused.
func TestPrivilegedStateChanges(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, late := range []bool{false, true} {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, testapp.Build(t))
			app.Call("ignore")
			fd := app.Connect(server.Addr(), false, false)
			a := New(Config{})
			half := func() { app.Call("half %d", fd) }
			if late {
				confirm := a.confirm
				a.confirm = func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error) {
					half()
					return confirm(ctx, conn, flow)
				}
			} else {
				beforeTurn(a, func(*sockdiag.Flow) { half() })
			}
			selector := to(server.Addr())
			selector.States = sockdiag.States(sockdiag.Established)
			r := only(t, mustHangUp(t, a, hangup.Request{Selector: selector}))
			if r.Outcome != hangup.Gone { // the server may have closed its side
				expect(t, r, hangup.Refused, hangup.ReasonEvidence, hangup.None)
			}
			app.Kill()
		}
	})
}

// FilterOwners returns the selected owner of a shared socket.
func TestPrivilegedFilterOwners(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Connect(server.Addr(), false, false)
		child := startHolder(t, app, "fork")
		flow := flowTo(t, server.Addr())
		for _, pid := range []int{app.PID(), child} {
			owners, err := FilterOwners(t.Context(), []sockdiag.Flow{flow, {}}, &hangup.OwnerFilter{PIDs: []int{pid}})
			if got := owners.ByInode[flow.Inode].PID; err != nil || got != pid || len(owners.ByInode) != 1 {
				t.Errorf("owner is %d, want %d: %+v, %v", got, pid, owners, err)
			}
		}
		owners, err := FilterOwners(t.Context(), []sockdiag.Flow{flow}, &hangup.OwnerFilter{PIDs: []int{os.Getpid()}})
		if err != nil || len(owners.ByInode) != 0 {
			t.Errorf("%+v, %v", owners, err)
		}
	})
}
