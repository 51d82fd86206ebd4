package actuator

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/heldlock"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// A process that holds the lock of its socket does not block a hang-up: the flow fails, and no
// other call is made in the namespace before the blocked one has returned.
func TestPrivilegedBlockedSocket(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		for _, tt := range []struct {
			name   string
			method hangup.Method
			// hold is called with a function that makes the client hold the lock.
			hold   func(a *Actuator, hold func())
			unread bool // the flow is not selected
			closed bool // once the lock is free
		}{
			{"before the selection", hangup.Shutdown, func(_ *Actuator, hold func()) { hold() }, true, false},
			{"before its turn", hangup.Shutdown, func(a *Actuator, hold func()) { beforeTurn(a, func(*sockdiag.Flow) { hold() }) }, false, false},
			{"before shutdown", hangup.Shutdown, holdAfterConfirm, false, true},
			{"before destroy", hangup.Destroy, func(a *Actuator, hold func()) {
				destroy := a.destroy
				a.destroy = func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) error {
					hold()
					return destroy(ctx, conn, flow)
				}
			}, false, true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				shop := node.Start(pods.Spec{Namespace: "shop"})
				serveIn(t, shop, testapp.ServerConfig{})
				app, fd := clientIn(shop)
				a, release := New(Config{}), func() {}
				tt.hold(a, func() { release = holdLock(t, app, fd) })
				request := hangup.Request{
					Selector: to(podDestination), Method: tt.method, Linger: time.Millisecond, Namespaces: []hangup.Namespace{namespaceOf(t, shop)},
				}
				report := mustHangUp(t, a, request)
				if tt.unread {
					mustBeUnread(t, report)
				} else if r := only(t, report); r.Outcome != hangup.Failed || !errors.Is(r.Err, sockdiag.ErrBlocked) {
					t.Errorf("got %+v", r)
				}
				begun := time.Now()
				mustBeUnread(t, mustHangUp(t, a, request))
				if took := time.Since(begun); took >= blockedAfter {
					t.Errorf("waited %v again", took)
				}
				release()
				nstest.Eventually(t, "the blocked call has returned", func() bool { return !a.blocked.Has(request.Namespaces[0].Inode) })
				report = mustHangUp(t, New(Config{}), request)
				if tt.closed && len(report.Results) > 0 && report.Results[0].Outcome == hangup.Refused {
					t.Errorf("got %+v", report.Results)
				}
				if got := app.Call("recv %d", fd); tt.method == hangup.Shutdown && got != "recv ok 0" {
					t.Errorf("application: %s", got)
				}
			})
		}
	})
}

// holdAfterConfirm holds the lock directly before shutdown(2).
func holdAfterConfirm(a *Actuator, hold func()) {
	confirm := a.confirm
	a.confirm = func(ctx context.Context, conn *sockdiag.Conn, flow *sockdiag.Flow) (sockdiag.Flow, error) {
		f, err := confirm(ctx, conn, flow)
		hold()
		return f, err
	}
}

func mustBeUnread(t *testing.T, report *hangup.Report) {
	t.Helper()
	if len(report.Results) != 0 || len(report.NamespaceErrors) != 1 || !errors.Is(report.NamespaceErrors[0].Err, sockdiag.ErrBlocked) {
		t.Errorf("got %+v", report)
	}
}

// holdLock holds the lock of a socket of the application. The test holds no descriptor of it
// afterwards: a search of /proc would find that.
func holdLock(t *testing.T, app *testapp.App, fd int) (release func()) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(app.PID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	socket, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	return heldlock.Hold(t, socket)
}

// No call begins in a namespace with a blocked one.
func TestCallBlocked(t *testing.T) {
	b, in := &sockdiag.BlockedCalls{Limit: time.Minute}, &namespace{Namespace: hangup.Namespace{Inode: 7, Pod: new(hangup.Pod)}}
	begun := func() (begun bool, err error) {
		err = new(acquired).call(b, in, func(int) { begun = true })
		return begun, err
	}
	if ok, err := begun(); !ok || err != nil {
		t.Errorf("begun %t, %v", ok, err)
	}
	b.Add(7, make(chan struct{}))
	if ok, err := begun(); ok || !errors.Is(err, sockdiag.ErrBlocked) {
		t.Errorf("begun %t, %v", ok, err)
	}
}
