package actuator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/netns"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// podDestination is an address of every pod, see pods.Node.Start.
var podDestination = netip.MustParseAddrPort("10.20.0.5:5432")

// namespaceOf returns the network namespace of a pod. Its Do compares the namespace and the pod
// of the first process.
func namespaceOf(t *testing.T, p *pods.Pod) hangup.Namespace {
	t.Helper()
	directory := fmt.Sprintf("/proc/%d", p.Apps[0].PID())
	inode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(directory+"/ns/net", &st); err != nil {
			return 0
		}
		return st.Ino
	}
	owns := func(cgroup string) bool { return strings.Contains(cgroup, "/pod"+p.UID+"/") }
	in := hangup.Namespace{
		Name: p.String(), Inode: inode(),
		Pod: &hangup.Pod{Namespace: p.Namespace, Name: p.Name, UID: p.UID, Started: time.Now(), Owns: owns},
	}
	in.Do = func(open func() error) error {
		ns, err := netns.Open(directory + "/ns/net")
		if err != nil {
			return err
		}
		defer func() { _ = ns.Close() }()
		if cgroup, _ := os.ReadFile(directory + "/cgroup"); !owns(string(cgroup)) || inode() != in.Inode {
			return os.ErrNotExist
		}
		return ns.Do(open)
	}
	return in
}

// serveIn starts a server at podDestination in the pod.
func serveIn(t *testing.T, p *pods.Pod, c testapp.ServerConfig) {
	t.Helper()
	c.Address = podDestination.String()
	p.Do(func() { testapp.Serve(t, c) })
}

// clientIn returns a process of the pod that ignores SIGPIPE, with a connection.
func clientIn(p *pods.Pod) (app *testapp.App, fd int) {
	app = p.Add()
	app.Call("ignore")
	return app, app.Connect(podDestination, false, false)
}

// pass gives a copy of a descriptor to another process, which has to take it from its mailbox.
func pass(t *testing.T, from *testapp.App, fd int, to *testapp.App) (mailbox int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m")
	if _, err := fmt.Sscanf(to.Call("mailbox %s", path), "mailbox ok %d", &mailbox); err != nil {
		t.Fatal(err)
	}
	if got := from.Call("give %d %s", fd, path); got != "give ok" {
		t.Fatal(got)
	}
	return mailbox
}

// take takes a descriptor that the process was given.
func take(t *testing.T, app *testapp.App, mailbox int) {
	t.Helper()
	var fd int
	if _, err := fmt.Sscanf(app.Call("take %d", mailbox), "take ok %d", &fd); err != nil {
		t.Fatal(err)
	}
}

// A socket of a pod's namespace that a process outside of the pod holds, or no visible process,
// is refused by every method. So is one that such a process gets after the selection.
func TestPrivilegedPodHolders(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		shop, bank := node.Start(pods.Spec{Namespace: "shop", Name: "web-0"}), node.Start(pods.Spec{Namespace: "bank", Name: "web-0"})
		serveIn(t, shop, testapp.ServerConfig{})
		outsider := bank.Add()
		outsider.Call("ignore")
		// fork starts a copy of the client in another pod.
		fork := func(t *testing.T, app *testapp.App, _ int) { bank.Adopt(startHolder(t, app, "fork")) }
		for _, tt := range []struct {
			name   string
			before func(*testing.T, *testapp.App, int) // the selection
			during func(*testing.T, *testapp.App, int) // before the hang-up
			detail string                              // of a refused flow; "" for a flow that is hung up
		}{
			{name: "own process"},
			{name: "own processes", before: func(t *testing.T, app *testapp.App, _ int) { shop.Adopt(startHolder(t, app, "fork")) }},
			{name: "forked into another pod", before: fork, detail: "is not of pod shop/web-0"},
			{name: "forked into another pod during the action", during: func(t *testing.T, app *testapp.App, fd int) {
				fork(t, app, fd)
				time.Sleep(2 * ownersFresh) // the last search is too old then
			}, detail: "is not of pod shop/web-0"},
			{name: "passed to another pod", before: func(t *testing.T, app *testapp.App, fd int) {
				take(t, outsider, pass(t, app, fd, outsider))
			}, detail: "is not of pod shop/web-0"},
			{name: "moved to another pod", before: func(t *testing.T, app *testapp.App, fd int) {
				take(t, outsider, pass(t, app, fd, outsider))
				app.Call("close %d", fd)
			}, detail: "is not of pod shop/web-0"},
			{name: "moved to another pod during the action", during: func(t *testing.T, app *testapp.App, fd int) {
				take(t, outsider, pass(t, app, fd, outsider))
				app.Call("close %d", fd)
			}, detail: "is not of pod shop/web-0"},
			{name: "in flight to another pod", before: func(t *testing.T, app *testapp.App, fd int) {
				pass(t, app, fd, outsider)
				app.Call("close %d", fd)
			}, detail: "holds the socket: it is in flight between processes"},
			{name: "process moves to another pod during the action", during: func(t *testing.T, app *testapp.App, _ int) {
				if err := unix.Unmount(fmt.Sprintf("/proc/%d/cgroup", app.PID()), unix.MNT_DETACH); err != nil {
					t.Fatal(err)
				}
				bank.Adopt(app.PID())
			}, detail: "is not of pod shop/web-0"},
		} {
			for _, method := range []hangup.Method{hangup.Shutdown, hangup.Destroy} {
				t.Run(fmt.Sprintf("%s, %s", tt.name, method), func(t *testing.T) {
					app, fd := clientIn(shop)
					if tt.before != nil {
						tt.before(t, app, fd)
					}
					request := hangup.Request{Selector: to(podDestination), Method: method, Linger: nstest.HangGuard, Namespaces: []hangup.Namespace{namespaceOf(t, shop)}}
					request.Selector.States = sockdiag.States(sockdiag.Established)
					defer killHolders(t, shop, app)
					for _, dry := range []bool{true, false} {
						if request.DryRun = dry; dry && tt.during != nil {
							continue
						}
						a := New(Config{})
						if during := sync.OnceFunc(func() {
							if tt.during != nil {
								tt.during(t, app, fd)
							}
						}); !dry {
							beforeTurn(a, func(*sockdiag.Flow) { during() })
						}
						r := only(t, mustHangUp(t, a, request))
						switch {
						case tt.detail != "":
							expect(t, r, hangup.Refused, hangup.ReasonIdentity, hangup.None)
						case dry:
							expect(t, r, hangup.Planned, "", method)
						default:
							expect(t, r, hangup.Closed, "", method)
						}
						if !strings.Contains(r.Detail, tt.detail) || r.Namespace != "shop/web-0" || r.Flow.Netns != request.Namespaces[0].Inode {
							t.Errorf("got %+v", r)
						}
					}
				})
			}
		}
	})
}

// killHolders ends the client, the other processes with its sockets, and waits for the end of
// its connections.
func killHolders(t *testing.T, p *pods.Pod, app *testapp.App) {
	t.Helper()
	app.Kill()
	in := namespaceOf(t, p)
	nstest.Eventually(t, "the connections have ended", func() bool {
		conn, err := sockdiag.DialIn(in.Inode, in.Enter)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var open []sockdiag.Flow
		for f, err := range conn.Flows(t.Context(), sockdiag.Query{States: sockdiag.States(sockdiag.Established)}) {
			if err != nil {
				t.Fatal(err)
			}
			if f.Remote == podDestination {
				open = append(open, f)
			}
		}
		for i := range open {
			if err := conn.Destroy(t.Context(), &open[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		return len(open) == 0
	})
}

// A process of another pod that entered the namespace has connections there. They are refused,
// and those of the pod to the same destination are hung up.
func TestPrivilegedPodVisitor(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		shop, bank := node.Start(pods.Spec{Namespace: "shop"}), node.Start(pods.Spec{Namespace: "bank"})
		serveIn(t, shop, testapp.ServerConfig{})
		visitor := bank.Add()
		visitor.Call("ignore")
		if got := visitor.Call("netns /proc/%d/ns/net", shop.Apps[0].PID()); got != "netns ok" {
			t.Fatal(got)
		}
		foreign := visitor.Connect(podDestination, false, false)
		for _, method := range hangup.Methods() {
			app, fd := clientIn(shop)
			report := mustHangUp(t, New(Config{}), hangup.Request{
				Selector: to(podDestination), Method: method, Linger: nstest.HangGuard, Namespaces: []hangup.Namespace{namespaceOf(t, shop)},
			})
			if len(report.Results) != 2 {
				t.Fatalf("got %+v", report.Results)
			}
			for i := range report.Results {
				if r := &report.Results[i]; r.PID == visitor.PID() {
					expect(t, r, hangup.Refused, hangup.ReasonIdentity, hangup.None)
				} else if r.PID != app.PID() || r.Outcome != hangup.Closed {
					t.Errorf("got %+v", r)
				}
			}
			if got := visitor.Call("write %d", foreign); got != "write ok 1" {
				t.Errorf("%s: visitor: %s", method, got)
			}
			if got := app.Call("write %d", fd); got == "write ok 1" {
				t.Errorf("%s: connection of the pod is open", method)
			}
			app.Kill()
		}
	})
}

// Sockets that no process can hold are destroyed in the namespace of the pod.
func TestPrivilegedPodOrphan(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		if !destroysOrphans() {
			t.Skip("before Linux 6.11 SOCK_DESTROY does not close orphans")
		}
		node := pods.NewNode(t, testapp.Build(t))
		shop := node.Start(pods.Spec{})
		serveIn(t, shop, testapp.ServerConfig{NoRead: true})
		app, fd := clientIn(shop)
		app.Block("send", fd, unix.SYS_SENDTO)
		app.Kill() // its queue is full: the FIN waits
		selector := to(podDestination)
		selector.States = sockdiag.States(sockdiag.FinWait1)
		r := only(t, mustHangUp(t, New(Config{}), hangup.Request{
			Selector: selector, Method: hangup.Destroy, Namespaces: []hangup.Namespace{namespaceOf(t, shop)},
		}))
		expect(t, r, hangup.Closed, "", hangup.Destroy)
		if r.Flow.Inode != 0 {
			t.Errorf("the socket has an inode: %+v", r.Flow)
		}
	})
}

// The namespace of tcphup is that of no pod, and a pod without a namespace is not taken for it.
func TestPrivilegedPodOwnNamespace(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		host := node.Start(pods.Spec{HostNetwork: true})
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := host.Apps[0]
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, false)
		own := namespaceOf(t, host)
		withoutDo, withoutInode := own, own
		withoutDo.Do, withoutDo.Inode, withoutInode.Inode = nil, 1, 0
		for name, in := range map[string]hangup.Namespace{"own": own, "without Do": withoutDo, "without inode": withoutInode} {
			report := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Namespaces: []hangup.Namespace{in}})
			if len(report.Results) != 0 || len(report.NamespaceErrors) != 1 || !errors.Is(report.NamespaceErrors[0].Err, errNotOfPod) {
				t.Errorf("%s: got %+v", name, report)
			}
		}
		if got := app.Call("write %d", fd); got != "write ok 1" {
			t.Error(got)
		}
	})
}

// A pod that was replaced under the action is not acted on, even if its network namespace were
// taken for that of the former pod.
func TestPrivilegedPodReplaced(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		first := node.Start(pods.Spec{Namespace: "shop", Name: "web-0"})
		before := namespaceOf(t, first)
		next := first.Replace()
		serveIn(t, next, testapp.ServerConfig{})
		app, fd := clientIn(next)
		report := mustHangUp(t, New(Config{}), hangup.Request{Selector: to(podDestination), Namespaces: []hangup.Namespace{before}})
		if len(report.Results) != 0 || len(report.NamespaceErrors) != 1 || !errors.Is(report.NamespaceErrors[0].Err, os.ErrNotExist) {
			t.Errorf("got %+v", report)
		}
		mistaken := namespaceOf(t, next)
		mistaken.Pod = before.Pod
		for _, method := range hangup.Methods() {
			r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(podDestination), Method: method, Namespaces: []hangup.Namespace{mistaken}}))
			expect(t, r, hangup.Refused, hangup.ReasonIdentity, hangup.None)
		}
		if got := app.Call("write %d", fd); got != "write ok 1" {
			t.Error(got)
		}
	})
}

// The watch for reconnects ends with the pod, and does not keep its network namespace.
func TestPrivilegedPodWatchEnds(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		node := pods.NewNode(t, testapp.Build(t))
		shop := node.Start(pods.Spec{})
		nstest.Command(t, "ip", "link", "add", "inside", "type", "veth", "peer", "name", "outside")
		nstest.Command(t, "ip", "link", "set", "inside", "netns", fmt.Sprint(shop.Apps[0].PID()))
		_, _, client := shop.Load(podDestination, 1)
		a := New(Config{})
		defer a.Close()
		report := mustHangUp(t, a, hangup.Request{
			Selector: to(podDestination), Method: hangup.Destroy, WatchReconnect: 10 * nstest.HangGuard, Namespaces: []hangup.Namespace{namespaceOf(t, shop)},
		})
		if r := only(t, report); r.Outcome != hangup.Closed || r.PID != client.PID() {
			t.Fatalf("got %+v", r)
		}
		shop.Kill()
		nstest.Eventually(t, "the kernel removes the namespace with its device", func() bool {
			return !strings.Contains(nstest.Command(t, "ip", "-o", "link"), "outside")
		})
		ctx, cancel := context.WithTimeout(t.Context(), nstest.HangGuard)
		defer cancel()
		if err := report.AwaitReconnects(ctx); err != nil || ctx.Err() != nil {
			t.Errorf("watch: %v, %v", err, ctx.Err())
		}
		if r := only(t, report); r.Reconnect == nil || r.Reconnect.Remote.IsValid() {
			t.Errorf("got %+v", r.Reconnect)
		}
	})
}

// The pod of a process is that of its cgroup, also after the end of its first thread.
func TestPrivilegedPodCgroup(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		for _, thread := range []bool{false, true} {
			p := startPod(t, binary, "one", testapp.ServerConfig{})
			group := strings.TrimPrefix(moveToCgroup(t, p.app), cgroupMount())
			method := hangup.Shutdown
			if thread {
				endFirstThread(t, p.app)
				method, _ = methodAfterFirstThread()
			}
			in := p.Namespace
			request := hangup.Request{Selector: to(podServer), Namespaces: []hangup.Namespace{in}}
			for _, owns := range []func(string) bool{nil, func(string) bool { return false }, func(cgroup string) bool { return strings.Contains(cgroup, group+"-2\n") }} {
				request.Namespaces[0].Pod = &hangup.Pod{Owns: owns}
				expect(t, only(t, mustHangUp(t, New(Config{}), request)), hangup.Refused, hangup.ReasonIdentity, hangup.None)
			}
			request.Namespaces[0].Pod = &hangup.Pod{Owns: func(cgroup string) bool { return strings.Contains(cgroup, group+"\n") }}
			expect(t, only(t, mustHangUp(t, New(Config{}), request)), hangup.Closed, "", method)
		}
	})
}
