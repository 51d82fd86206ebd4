package actuator

import (
	"context"
	"errors"
	"math"
	"net/netip"
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

// HangUp rejects an invalid request.
func TestRequestRefused(t *testing.T) {
	for name, r := range map[string]hangup.Request{
		"method":              {Method: "kill"},
		"mptcp mode":          {MPTCP: "all"},
		"shut down a subflow": {MPTCP: hangup.Path, Method: hangup.Shutdown},
		"rate NaN":            {Rate: math.NaN()},
		"rate infinite":       {Rate: math.Inf(1)},
		"fraction NaN":        {MaxFraction: math.NaN()},
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

// Over the budget no flow is closed, not even the number of flows within it.
func TestPrivilegedBudget(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const flows = 4
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
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
				if got := app.Call("write %d", fd); got != "write ok 1" {
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

// A rate spreads the hang-ups of a pool over time.
func TestPrivilegedRate(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const flows, rate = 3, 2
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		for range flows {
			app.Connect(server.Addr(), false, false)
		}
		start := time.Now()
		if n := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Rate: rate}).Count(hangup.Closed); n != flows {
			t.Errorf("%d flows closed, want %d", n, flows)
		}
		// The minimum pause is half of the mean.
		if took, atLeast := time.Since(start), (flows-1)*time.Second/rate/2; took < atLeast {
			t.Errorf("%d flows at %d a second took %v, want at least %v", flows, rate, took, atLeast)
		}
	})
}

// Only flows with a known age that are older than EstablishedBefore are hung up. Younger
// flows are counted, and flows of unknown age refused.
func TestPrivilegedEstablishedBefore(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
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
				delete(seen, cookie) // of unknown age
			}
		}
		r := hangup.Request{Selector: to(server.Addr()), EstablishedBefore: moment}
		if report := mustHangUp(t, New(Config{}), r); report.Spared()[hangup.ReasonTooYoung] != 3 || len(report.Results) != 3 {
			t.Errorf("without known ages: %+v", report)
		}
		at := func(f *sockdiag.Flow) (time.Time, bool) {
			at, known := seen[f.Cookie]
			return at, known
		}
		if report := mustHangUp(t, New(Config{FirstSeen: at}), hangup.Request{Selector: to(server.Addr()), EstablishedBefore: moment, DryRun: true}); report.Spared()[hangup.ReasonTooYoung] != 2 {
			t.Errorf("seen after the moment only: %+v", report)
		}
		a := New(Config{FirstSeen: at, EstablishedAfter: at})
		report := mustHangUp(t, a, r)
		if len(report.Results) != 2 || report.Younger != 1 || report.Spared()[hangup.ReasonTooYoung] != 1 {
			t.Fatalf("got %+v", report)
		}
		for i := range report.Results {
			if r := &report.Results[i]; r.Reason != hangup.ReasonTooYoung {
				expect(t, r, hangup.Closed, "", hangup.Shutdown)
				if r.Flow.Cookie != before {
					t.Errorf("closed was the flow with cookie %d, want %d", r.Flow.Cookie, before)
				}
			}
		}
	})
}

// A flow that ends before its hang-up is gone, not failed.
func TestPrivilegedGone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		for _, method := range hangup.Methods() {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			app.Connect(server.Addr(), false, false)
			a := New(Config{})
			beforeTurn(a, func(f *sockdiag.Flow) {
				conn, err := sockdiag.Dial()
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if err := conn.Destroy(t.Context(), f); err != nil { // leaves no TIME_WAIT
					t.Fatal(err)
				}
			})
			expect(t, only(t, mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Method: method})), hangup.Gone, "", hangup.None)
		}
	})
}

// A busy flow is deferred with either method.
func TestPrivilegedDrainWaits(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		for _, method := range []hangup.Method{hangup.Shutdown, hangup.Destroy} {
			server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", Echo: true})
			app := testapp.Start(t, binary)
			app.Call("ignore")
			fd := app.Connect(server.Addr(), false, false)
			app.Call("write %d", fd)
			nstest.Eventually(t, "a response is unread", func() bool {
				return flowTo(t, server.Addr()).ReceiveQueue > 0
			})
			a, lookups := New(Config{}), 0
			beforeTurn(a, func(*sockdiag.Flow) {
				if lookups++; lookups == 3 {
					if got := app.Call("recv %d", fd); got != "recv ok 1" {
						t.Errorf("%s: application: %q", method, got)
					}
				}
			})
			r := hangup.Request{Selector: to(server.Addr()), Method: method, DrainQuiet: 10 * time.Millisecond, DrainDeadline: time.Minute}
			expect(t, only(t, mustHangUp(t, a, r)), hangup.Closed, "", method)
			if lookups < 3 {
				t.Errorf("%s: hung up at lookup %d with an unread response", method, lookups)
			}
			app.Kill()
		}
	})
}

// A request that begins during the search for the socket defers the flow as well.
func TestPrivilegedDrainRechecks(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, false)
		now := flowTo(t, server.Addr())
		conn, err := sockdiag.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		x := &action{Actuator: New(Config{}), Request: hangup.Request{Selector: to(server.Addr()), Method: hangup.Auto, Linger: time.Second, DrainQuiet: time.Minute}}
		chosen := &target{in: &namespace{conn: conn}, Result: hangup.Result{Flow: now}, holders: []holder{{pid: app.PID(), fd: fd}}, ownersAt: time.Now()}
		app.Call("write %d", fd)
		if x.hangUpOne(t.Context(), chosen, &now, true); chosen.phase != phaseBusy {
			t.Errorf("got phase %d: %+v", chosen.phase, chosen.Result)
		}
		if got := app.Call("write %d", fd); got != "write ok 1" {
			t.Errorf("application: %q", got)
		}
	})
}

// setUserTimeout keeps a shorter timeout of the application and lowers a longer one.
func TestUserTimeoutKeepsShorter(t *testing.T) {
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
		if err := setUserTimeout(fd, tt.linger); err != nil {
			t.Fatal(err)
		}
		if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || got != tt.want {
			t.Errorf("own %d ms, linger %v: got %d ms, %v, want %d ms", tt.own, tt.linger, got, err, tt.want)
		}
	}
}

// Before Linux 6.11 an orphan is not destroyed. The personality UNAME26 makes any kernel
// report release 2.6 (personality(2)).
func TestPrivilegedOldKernel(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewPeer(t)
		binary := testapp.Build(t)
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
			app.Call("close %d", fd)
			var r *hangup.Result
			asLinux26(t, func() {
				r = only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(destination), Method: tt.method, Linger: 200 * time.Millisecond}))
			})
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

// asLinux26 calls f in a thread for which uname(2) returns a 2.6 kernel (personality(2)).
func asLinux26(t *testing.T, f func()) {
	t.Helper()
	const uname26 = 0x0020000
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, _, errno := unix.Syscall(unix.SYS_PERSONALITY, uname26, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer func() {
		if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, before, 0, 0); errno != 0 {
			t.Fatal(errno)
		}
	}()
	f()
}

// A subflow whose connection is not in the plan is not destroyed.
func TestDestroyRefusesUnknownSubflow(t *testing.T) {
	a := New(Config{})
	a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error {
		t.Error("the subflow was destroyed")
		return nil
	}
	x := &action{Actuator: a, Request: hangup.Request{Method: hangup.Destroy}}
	subflow := sockdiag.Flow{State: sockdiag.Established, Inode: 1, IsSubflow: true}
	chosen := &target{Result: hangup.Result{Flow: subflow}}
	x.destroyFlow(t.Context(), chosen, &subflow, "", "")
	expect(t, &chosen.Result, hangup.Refused, hangup.ReasonLastSubflow, hangup.None)
}

// A flow without a visible owner is refused.
func TestAcquireWithoutHolder(t *testing.T) {
	x := &action{Actuator: New(Config{})}
	if fd, reason, err := x.acquire(&target{}); fd != -1 || reason != hangup.ReasonPermission || err == nil {
		t.Errorf("got descriptor %d, reason %q, %v", fd, reason, err)
	}
}

// A linger beyond the range of TCP_USER_TIMEOUT does not become a short one.
func TestUserTimeoutMaximum(t *testing.T) {
	for _, linger := range []time.Duration{3 * time.Second, 25 * 24 * time.Hour, (1<<32 + 1) * time.Millisecond, math.MaxInt64} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		err = setUserTimeout(fd, linger)
		ms, optErr := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if got := time.Duration(ms) * time.Millisecond; errors.Join(err, optErr) != nil || got < min(linger, 10*24*time.Hour) {
			t.Errorf("linger %v: TCP_USER_TIMEOUT is %v, %v, %v", linger, got, err, optErr)
		}
	}
}

// A refused flow keeps its socket options.
func TestPrivilegedRefusedIsUntouched(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, false)
		flow := flowTo(t, server.Addr())
		conn, err := sockdiag.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		x := &action{Actuator: New(Config{}), Request: hangup.Request{Selector: to(server.Addr()), Method: hangup.Auto, Linger: time.Second}}
		x.Selector.MinIdle = time.Second
		chosen := &target{in: &namespace{conn: conn}, Result: hangup.Result{Flow: flow}, holders: []holder{{pid: app.PID(), fd: fd}}}
		var now sockdiag.Flow
		nstest.Eventually(t, "the flow is idle", func() bool {
			var ok bool
			now, ok = x.recheck(t.Context(), chosen)
			return ok
		})
		app.Call("write %d", fd) // during the search for its owner
		chosen.Reason, chosen.ownersAt = "", time.Now()
		if x.hangUpOne(t.Context(), chosen, &now, false); chosen.Reason != hangup.ReasonEvidence || chosen.Method != hangup.None {
			t.Errorf("got %+v", chosen.Result)
		}
		own, err := duplicate(holder{pid: app.PID(), fd: fd}, &flow)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(own)
		if timeout, err := unix.GetsockoptInt(own, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || timeout != 0 {
			t.Errorf("TCP_USER_TIMEOUT is %d, %v", timeout, err)
		}
	})
}
