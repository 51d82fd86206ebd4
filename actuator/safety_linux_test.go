package actuator

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// A Request that makes no sense is refused as a whole.
func TestRequestRefused(t *testing.T) {
	for name, r := range map[string]hangup.Request{
		"method":              {Method: "kill"},
		"mptcp mode":          {MPTCP: "all"},
		"shut down a path":    {MPTCP: hangup.Path, Method: hangup.Shutdown},
		"rate no number":      {Rate: math.NaN()},
		"rate without end":    {Rate: math.Inf(1)},
		"fraction no number":  {MaxFraction: math.NaN()},
		"negative rate":       {Rate: -1},
		"negative flows":      {MaxFlows: -1},
		"negative fraction":   {MaxFraction: -0.5},
		"negative linger":     {Linger: -1},
		"negative quiet":      {DrainQuiet: -1},
		"negative deadline":   {DrainDeadline: -1},
		"negative watch time": {WatchReconnect: -1},
	} {
		if report, err := New(Config{}).HangUp(t.Context(), r); err == nil {
			t.Errorf("%s: got %+v", name, report)
		}
	}
}

// Over budget nothing is closed, not even as many flows as the budget has.
func TestPrivilegedBudget(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const flows = 4
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		var fds []int
		for range flows {
			fds = append(fds, app.Connect(server.Addr(), false, false))
		}
		for name, r := range map[string]hangup.Request{
			"flows":    {MaxFlows: flows - 1},
			"fraction": {MaxFraction: 0.9},
		} {
			r.Selector = to(server.Addr())
			report := mustHangUp(t, New(Config{}), r)
			if report.Covered != flows || len(report.Results) != flows {
				t.Errorf("%s: %d flows covered, %d results", name, report.Covered, len(report.Results))
			}
			for i := range report.Results {
				expect(t, &report.Results[i], hangup.Refused, hangup.ReasonBudget, hangup.None)
			}
			for _, fd := range fds {
				if got := app.Ask("write %d", fd); got != "write ok 1" {
					t.Errorf("%s: application: %q", name, got)
				}
			}
		}
		within := hangup.Request{Selector: to(server.Addr()), MaxFlows: flows, MaxFraction: 1}
		if n := mustHangUp(t, New(Config{}), within).Count(hangup.Closed); n != flows {
			t.Errorf("within the budget %d of %d flows were closed", n, flows)
		}
	})
}

// A pool does not lose all of its connections at once when there is a rate.
func TestPrivilegedRate(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const flows, rate = 3, 2
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		for range flows {
			app.Connect(server.Addr(), false, false)
		}
		start := time.Now()
		if n := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Rate: rate}).Count(hangup.Closed); n != flows {
			t.Errorf("%d flows closed, want %d", n, flows)
		}
		// Each pause is half of the mean at least.
		if took, atLeast := time.Since(start), (flows-1)*time.Second/rate/2; took < atLeast {
			t.Errorf("%d flows at %d a second took %v, want at least %v", flows, rate, took, atLeast)
		}
	})
}

// Only what is known to have been there at the time is hung up.
func TestPrivilegedEstablishedBefore(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		moment := time.Now()
		seen := make(map[uint64]time.Time)
		for i := range 3 {
			app.Connect(server.Addr(), false, false)
			for _, f := range sockets(t, server.Addr().Port()) {
				if _, known := seen[f.Cookie]; !known && f.Remote == server.Addr() {
					seen[f.Cookie] = moment.Add(time.Duration(i-1) * time.Second)
				}
			}
		}
		var before uint64
		for cookie, at := range seen {
			switch {
			case at.Before(moment):
				before = cookie
			case at.Equal(moment):
				delete(seen, cookie) // never seen: its age is not known
			}
		}
		r := hangup.Request{Selector: to(server.Addr()), EstablishedBefore: moment}
		if report := mustHangUp(t, New(Config{}), r); len(report.Results) != 0 || report.Covered != 3 {
			t.Errorf("where no age is known: %+v", report)
		}
		a := New(Config{FirstSeen: func(f *sockdiag.Flow) (time.Time, bool) {
			at, known := seen[f.Cookie]
			return at, known
		}})
		only := only(t, mustHangUp(t, a, r))
		expect(t, only, hangup.Closed, "", hangup.Shutdown)
		if only.Flow.Cookie != before {
			t.Errorf("closed was the flow with cookie %d, want %d", only.Flow.Cookie, before)
		}
	})
}

// A flow that ended by itself before its turn is no failure.
func TestPrivilegedGone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		for _, method := range hangup.Methods() {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			app.Ask("ignore")
			app.Connect(server.Addr(), false, false)
			a := New(Config{})
			beforeTurn(a, func(f *sockdiag.Flow) {
				conn, err := sockdiag.Dial()
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if err := conn.Destroy(t.Context(), f); err != nil { // it leaves nothing in the table
					t.Fatal(err)
				}
			})
			expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Method: method})), hangup.Gone, "", hangup.None)
		}
	})
}

// A busy flow is waited for, whatever the method.
func TestPrivilegedDrainWaits(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		for _, method := range []hangup.Method{hangup.Shutdown, hangup.Destroy} {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", Echo: true})
			app := testapp.Start(t, binary)
			app.Ask("ignore")
			fd := app.Connect(server.Addr(), false, false)
			app.Ask("write %d", fd)
			nstest.Eventually(t, "an answer waits to be read", func() bool {
				return flowTo(t, server.Addr()).ReceiveQueue > 0
			})
			a, looks := New(Config{}), 0
			beforeTurn(a, func(*sockdiag.Flow) {
				if looks++; looks == 3 {
					if got := app.Ask("recv %d", fd); got != "recv ok 1" {
						t.Errorf("%s: application: %q", method, got)
					}
				}
			})
			r := hangup.Request{Selector: to(server.Addr()), Method: method, DrainQuiet: 10 * time.Millisecond, DrainDeadline: time.Minute}
			expect(t, only(t, mustHangUp(t, a, r)), hangup.Closed, "", method)
			if looks < 3 {
				t.Errorf("%s: hung up at look %d, while an answer was to be read", method, looks)
			}
			app.Kill()
		}
	})
}

// A request that begins while the socket is being looked for is not cut either.
func TestPrivilegedDrainLooksLast(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		fd := app.Connect(server.Addr(), false, false)
		now := flowTo(t, server.Addr())
		x := &action{Actuator: New(Config{}), Request: hangup.Request{Selector: to(server.Addr()), Method: hangup.Auto, Linger: time.Second, DrainQuiet: time.Minute}}
		chosen := &target{Result: hangup.Result{Flow: now}, holders: []holder{{pid: app.PID(), fd: fd}}, ownersAt: time.Now()}
		app.Ask("write %d", fd)
		if x.hangUpOne(t.Context(), chosen, &now, true); chosen.phase != phaseBusy {
			t.Errorf("got phase %d: %+v", chosen.phase, chosen.Result)
		}
		if got := app.Ask("write %d", fd); got != "write ok 1" {
			t.Errorf("application: %q", got)
		}
	})
}

// An application that wants its peer to be given up sooner has its way; and one
// that has set nothing, or more, is not kept waiting.
func TestGiveUpAfterKeepsShorter(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, tt := range []struct {
		own    int // ms
		linger time.Duration
		want   int
	}{
		{own: 0, linger: 3 * time.Second, want: 3000},
		{own: 500, linger: 3 * time.Second, want: 500},
		{own: 60_000, linger: 3 * time.Second, want: 3000},
		{own: 60_000, linger: 0, want: 60_000},
	} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, tt.own); err != nil {
			t.Fatal(err)
		}
		if err := giveUpAfter(fd, tt.linger); err != nil {
			t.Fatal(err)
		}
		if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || got != tt.want {
			t.Errorf("own %d ms, linger %v: got %d ms, %v, want %d ms", tt.own, tt.linger, got, err, tt.want)
		}
	}
}

// Before Linux 6.11 an orphan that is destroyed stays for good, so it is left to
// the kernel. Any kernel calls itself 2.6 when it is asked to (UNAME26,
// personality(2)).
func TestPrivilegedOldKernel(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		binary := testapp.Build(t)
		const uname26 = 0x0020000
		runtime.LockOSThread() // the personality is the thread's, and ends with it
		for _, tt := range []struct {
			method  hangup.Method
			outcome hangup.Outcome
			reason  hangup.Reason
		}{
			{hangup.Destroy, hangup.Refused, hangup.ReasonPermission},
			{hangup.Auto, hangup.Lingering, ""},
		} {
			var server *testapp.Server
			peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0"}) })
			destination := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), server.Addr().Port())
			app := testapp.Start(t, binary)
			fd := app.Connect(destination, false, false)
			peer.Cut("one")
			app.Ask("close %d", fd)
			before, _, errno := unix.Syscall(unix.SYS_PERSONALITY, uname26, 0, 0)
			if errno != 0 {
				t.Fatal(errno)
			}
			r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(destination), Method: tt.method, Linger: 200 * time.Millisecond}))
			if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, before, 0, 0); errno != 0 {
				t.Fatal(errno)
			}
			expect(t, r, tt.outcome, tt.reason, hangup.None)
			if !strings.Contains(r.Detail, "6.11") {
				t.Errorf("%s: detail is %q", tt.method, r.Detail)
			}
			if len(sockets(t, server.Addr().Port())) == 0 {
				t.Errorf("%s: the orphan is gone", tt.method)
			}
			peer.Restore("one")
		}
	})
}

// A socket that we share with another process has to be known for ours before the
// pass over /proc may stop.
func TestRankOwnFirst(t *testing.T) {
	proc, err := openProc()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	if got := rank(proc, []int{os.Getppid(), 1, os.Getpid()}, nil); got[0] != os.Getpid() {
		t.Errorf("got %v, want %d first", got, os.Getpid())
	}
}

// A path of a connection of which the plan knew nothing is not destroyed either.
func TestDestroyRefusesUnknownPath(t *testing.T) {
	a := New(Config{})
	a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error {
		t.Error("the path was destroyed")
		return nil
	}
	x := &action{Actuator: a, Request: hangup.Request{Method: hangup.Destroy}}
	path := sockdiag.Flow{State: sockdiag.Established, Inode: 1, IsSubflow: true}
	chosen := &target{Result: hangup.Result{Flow: path}}
	x.destroyFlow(t.Context(), chosen, &path, "", "")
	expect(t, &chosen.Result, hangup.Refused, hangup.ReasonLastSubflow, hangup.None)
}

// What is no socket has no inode of one, and nobody's flow has none either: they are
// not taken for each other.
func TestOwnerOfNothing(t *testing.T) {
	proc, err := openProc()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	found, err := lookThrough(t.Context(), proc, []int{os.Getpid()}, []uint32{0})
	if err != nil || len(found.byInode) != 0 {
		t.Errorf("got %+v, %v", found, err)
	}
}

// Where no process can be seen, none is touched.
func TestAcquireWithoutHolder(t *testing.T) {
	x := &action{Actuator: New(Config{})}
	if fd, reason, err := x.acquire(&target{}); fd != -1 || reason != hangup.ReasonPermission || err == nil {
		t.Errorf("got descriptor %d, reason %q, %v", fd, reason, err)
	}
}

// Two paths that both match: the second to be taken would be the last one.
func TestPrivilegedMPTCPBothPaths(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		peer := nstest.NewPeer(t)
		var server *testapp.Server
		peer.Do(func() { server = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0", MPTCP: true}) })
		port := server.Addr().Port()
		app := testapp.Start(t, testapp.Build(t))
		app.Ask("ignore")
		fd := app.Connect(netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), port), false, true)
		app.Ask("write %d", fd)
		awaitPaths(t, port, 2)
		selector := sockdiag.Selector{Destinations: sockdiag.Everywhere(), Ports: []uint16{port}}
		report := mustHangUp(t, New(Config{}), hangup.Request{Selector: selector, MPTCP: hangup.Path})
		if len(report.Results) != 2 {
			t.Fatalf("got %+v, want two paths", report.Results)
		}
		expect(t, &report.Results[0], hangup.Closed, "", hangup.Destroy)
		expect(t, &report.Results[1], hangup.Refused, hangup.ReasonLastSubflow, hangup.None)
		awaitPaths(t, port, 1)
		if got := app.Ask("write %d", fd); got != "write ok 1" {
			t.Errorf("application: %q", got)
		}
	})
}

// However long a linger is, the kernel takes it for no shorter one.
func TestLingerBeyondKernel(t *testing.T) {
	for _, linger := range []time.Duration{3 * time.Second, 25 * 24 * time.Hour, (1<<32 + 1) * time.Millisecond, math.MaxInt64} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		err = giveUpAfter(fd, linger)
		ms, optErr := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if got := time.Duration(ms) * time.Millisecond; errors.Join(err, optErr) != nil || got < min(linger, 10*24*time.Hour) {
			t.Errorf("linger %v: TCP_USER_TIMEOUT is %v, %v, %v", linger, got, err, optErr)
		}
	}
}
