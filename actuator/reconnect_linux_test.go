package actuator

import (
	"fmt"
	"testing"
	"time"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// An application that reconnects with the same socket, from the same local address, is
// reported with its new destination.
func TestPrivilegedReconnectSameSocket(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.2:0"})
		other := testapp.Serve(t, testapp.ServerConfig{Address: fmt.Sprintf("127.0.0.1:%d", server.Addr().Port())})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		var fd int
		if _, err := fmt.Sscanf(app.Call("bound 127.0.0.2 %d 45001", server.Addr().Port()), "bound ok %d", &fd); err != nil {
			t.Fatal(err)
		}
		app.Send("recv %d", fd)
		done, shut := make(chan *hangup.Report), make(chan struct{})
		var reconnected []hangup.Reconnect
		a := New(Config{})
		a.setUserTimeout = func(int, time.Duration) error {
			close(shut) // the addresses were compared
			return nil
		}
		go func() {
			report, err := a.HangUp(t.Context(), hangup.Request{
				Selector: to(server.Addr()), Method: hangup.Shutdown, Linger: time.Second, WatchReconnect: nstest.HangGuard,
				Reconnected: func(r *hangup.Result) { reconnected = append(reconnected, *r.Reconnect) },
			})
			if err != nil {
				t.Error(err)
			} else if err := report.AwaitReconnects(t.Context()); err != nil {
				t.Error(err)
			}
			done <- report
		}()
		if got := app.Receive(); got != "recv ok 0" {
			t.Fatalf("application: %q", got)
		}
		<-shut
		if got := app.Call("again %d %d", fd, other.Addr().Port()); got != "again ok" {
			t.Fatalf("application: %q", got)
		}
		r := only(t, <-done)
		if r.Reconnect == nil || r.Reconnect.Remote != other.Addr() {
			t.Errorf("got %+v, want %s", r.Reconnect, other.Addr())
		}
		if len(reconnected) != 1 || reconnected[0] != *r.Reconnect {
			t.Errorf("Reconnected was called with %+v", reconnected)
		}
	})
}

// A flow with the addresses and the cookie of another one is of another network namespace, and
// replaces no flow there.
func TestReconnectNetns(t *testing.T) {
	old := &target{actedAt: time.Now(), holders: []holder{{pid: 7}}}
	old.Flow = sockdiag.Flow{Netns: 1, Cookie: 1, Remote: podServer, Local: podClient}
	for netns, want := range map[uint64]bool{1: true, 2: false} {
		f := openedFlow{flow: old.Flow, pids: []int{7}, at: old.actedAt.Add(time.Second)}
		f.flow.Netns = netns
		if got := f.replaces(old); got != want {
			t.Errorf("network namespace %d: replaces is %t", netns, got)
		}
		if got := idOf(&f.flow) == idOf(&old.Flow); got != want {
			t.Errorf("network namespace %d: the same flow is %t", netns, got)
		}
	}
}
