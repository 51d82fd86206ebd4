package actuator

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Without free descriptors, flows remain open or are shut down, never destroyed.
func TestPrivilegedNoDescriptors(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		bystander := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		other := app.Connect(bystander.Addr(), false, false)
		nstest.Eventually(t, "the bystander's peer has accepted", func() bool { return bystander.Accepted() == 1 })
		request := hangup.Request{Selector: to(server.Addr())}
		try := func(t *testing.T, limit func(a *Actuator) func() (*hangup.Report, error)) (failed bool) {
			t.Helper()
			accepted := server.Accepted()
			fd := app.Connect(server.Addr(), false, false)
			// The server runs in this process.
			nstest.Eventually(t, "the peer has accepted", func() bool { return server.Accepted() > accepted })
			a := New(Config{})
			report, err := limit(a)()
			switch {
			case err != nil:
				failed = true
				if !errors.Is(err, unix.EMFILE) || strings.Count(err.Error(), "too many open files") > maxWorkers {
					t.Errorf("the error is %v", err)
				}
			case only(t, report).Outcome == hangup.Failed:
				failed = true
				if r := only(t, report); !errors.Is(r.Err, unix.EMFILE) || r.Method != hangup.None || report.Exhausted() != 1 {
					t.Errorf("the flow failed with method %s and %v: nothing was done to it", r.Method, r.Err)
				}
			}
			if failed {
				if got := app.Call("write %d", fd); got != "write ok 1" {
					t.Errorf("a flow that was not hung up: %s", got)
				}
				report = mustHangUp(t, New(Config{}), request)
			}
			expect(t, only(t, report), hangup.Closed, "", hangup.Shutdown)
			if got := app.Call("recv %d", fd); got != "recv ok 0" {
				t.Errorf("a flow that was hung up: %s", got)
			}
			if got := <-server.Ends; got != "eof" {
				t.Errorf("the peer reads %s", got)
			}
			app.Call("close %d", fd)
			return failed
		}
		var during, meanwhile int
		for spare := range 8 {
			if try(t, func(a *Actuator) func() (*hangup.Report, error) {
				return func() (*hangup.Report, error) {
					lift := nstest.LimitDescriptors(t, os.Getpid(), spare)
					defer lift()
					return a.HangUp(t.Context(), request)
				}
			}) {
				during++
			}
			// The limit applies after the /proc scan.
			if try(t, func(a *Actuator) func() (*hangup.Report, error) {
				lift := func() {}
				beforeTurn(a, func(*sockdiag.Flow) {
					time.Sleep(processFresh) // expire the process cache
					lift = nstest.LimitDescriptors(t, os.Getpid(), spare)
				})
				return func() (*hangup.Report, error) {
					defer func() { lift() }()
					return a.HangUp(t.Context(), request)
				}
			}) {
				meanwhile++
			}
		}
		t.Logf("%d of 8 actions failed with the limit from the start, %d with the limit before the hang-up", during, meanwhile)
		if during == 0 || meanwhile == 0 || during == 8 || meanwhile == 8 {
			t.Error("the limits were too low or too high for this test")
		}
		if got := app.Call("write %d", other); got != "write ok 1" || len(bystander.Ends) != 0 {
			t.Errorf("bystander: %s", got)
		}
	})
}
