package actuator

import (
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// Begin comes before the first flow is touched, and Done while others are still hung up,
// with a rate and without.
func TestPrivilegedDone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const flows = 4
		binary := testapp.Build(t)
		for name, r := range map[string]hangup.Request{
			"no rate":  {},
			"rate":     {Rate: 20},
			"dry run":  {DryRun: true},
			"refused":  {MaxFlows: flows - 1},
			"no match": {Selector: sockdiag.Selector{MinIdle: time.Hour}},
		} {
			t.Run(name, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
				app := testapp.Start(t, binary)
				app.Call("ignore")
				for range flows {
					app.Connect(server.Addr(), false, false)
				}
				idle := r.Selector.MinIdle
				r.Selector = to(server.Addr())
				r.Selector.MinIdle = idle

				a := New(Config{})
				begun, hungUp, done := 0, 0, 0
				var start time.Time
				beforeTurn(a, func(*sockdiag.Flow) {
					if hungUp == 0 {
						start = time.Now()
						return
					}
					nstest.Eventually(t, "the flows before this one have ended", func() bool {
						open := 0
						for _, f := range sockets(t, server.Addr().Port()) {
							if !hasEnded(f.State) {
								open++
							}
						}
						return open == flows-hungUp && time.Since(start) > verifyInterval
					})
					// After the second flow, the first one was verified.
					if hungUp > 1 && done == 0 {
						t.Errorf("no flow is reported when %d are hung up", hungUp)
					}
				})
				shutdown := a.shutdown
				a.shutdown = func(fd int) error {
					if begun != 1 {
						t.Error("a flow is shut down before Begin")
					}
					hungUp++
					return shutdown(fd)
				}
				r.Begin = func(n int) {
					begun++
					if n != flows || hungUp > 0 || done > 0 {
						t.Errorf("begin with %d flows after %d hang-ups, %d flows done", n, hungUp, done)
					}
				}
				r.Done = func(*hangup.Result) { done++ }
				report := mustHangUp(t, a, r)
				if want := min(report.Count(hangup.Closed), 1); begun != want {
					t.Errorf("Begin was called %d times, want %d", begun, want)
				}
			})
		}
	})
}
