package pods

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"tcphup/test/kit/netns"
	"tcphup/test/kit/testapp"
)

// Pod is a running pod.
type Pod struct {
	Namespace, Name, UID string
	// Apps are the processes that Start, Add and Load started, one in each container.
	Apps []*testapp.App

	node       *Node
	spec       Spec
	containers []string // of Apps
}

// String returns NAMESPACE/NAME.
func (p *Pod) String() string { return p.Namespace + "/" + p.Name }

// logs returns the directory of logs.
func (p *Pod) logs() string {
	return filepath.Join(p.node.Logs, p.Namespace+"_"+p.Name+"_"+p.UID)
}

// open opens the network namespace.
func (p *Pod) open() (*netns.Namespace, error) {
	return netns.Open(fmt.Sprintf("/proc/%d/ns/net", p.Apps[0].PID()))
}

// start starts a container in ns; nil is the network namespace of the node.
func (p *Pod) start(ns *netns.Namespace) *testapp.App {
	t := p.node.t
	t.Helper()
	var app *testapp.App
	run := func() error {
		cmd := exec.Command(p.node.binary)
		if p.spec.User != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.spec.User, Gid: p.spec.User}}
		}
		p.node.reusePID()
		app = testapp.StartCommand(t, cmd)
		return nil
	}
	var err error
	if ns == nil {
		err = run()
	} else {
		err = ns.Do(run)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.Apps = append(p.Apps, app)
	p.containers = append(p.containers, randomDigits(64))
	p.node.bind(app.PID(), p.UID, p.containers[len(p.containers)-1])
	return app
}

// Add starts another container, with one process.
func (p *Pod) Add() *testapp.App {
	p.node.t.Helper()
	if p.spec.HostNetwork {
		return p.start(nil)
	}
	ns, err := p.open()
	if err != nil {
		p.node.t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	return p.start(ns)
}

// Adopt makes another process, such as a fork, one of the first container. It stays in its
// network namespace.
func (p *Pod) Adopt(pid int) {
	p.node.t.Helper()
	p.node.bind(pid, p.UID, p.containers[0])
}

// Do calls fn on a thread in the network namespace of the pod. Sockets of fn stay in it.
func (p *Pod) Do(fn func()) {
	p.node.t.Helper()
	ns, err := p.open()
	if err == nil {
		err = ns.Do(func() error { fn(); return nil })
		_ = ns.Close()
	}
	if err != nil {
		p.node.t.Fatal(err)
	}
}

// Load opens n connections to an address of the pod between two new containers, which ignore
// SIGPIPE. Port 0 means an ephemeral port. It returns the address, the container that listens
// and the one that connected.
func (p *Pod) Load(to netip.AddrPort, n int) (address netip.AddrPort, server, client *testapp.App) {
	t := p.node.t
	t.Helper()
	server, client = p.Add(), p.Add()
	server.Call("ignore")
	client.Call("ignore")
	var fd int
	var port uint16
	answer := server.Call("listen %s %d", to.Addr(), to.Port())
	if _, err := fmt.Sscanf(answer, "listen ok %d %d", &fd, &port); err != nil {
		t.Fatalf("%v: %s", p, answer)
	}
	server.Send("accept %d %d", fd, n)
	client.Send("many %s %d %d", to.Addr(), port, n)
	for _, app := range []*testapp.App{client, server} {
		if answer := app.Receive(); !strings.HasSuffix(answer, fmt.Sprintf(" ok %d", n)) {
			t.Fatalf("%v: open %d connections: %s", p, n, answer)
		}
	}
	return netip.AddrPortFrom(to.Addr(), port), server, client
}

// Kill ends the processes of Apps. Like the kubelet for a while, it keeps the directory of
// logs.
func (p *Pod) Kill() {
	for _, app := range p.Apps {
		app.Kill()
	}
}

// End ends the processes of Apps and removes the directory of logs.
func (p *Pod) End() {
	p.Kill()
	_ = os.RemoveAll(p.logs())
}

// Replace ends the processes and starts a pod of the same name and namespace with another uid,
// as a StatefulSet does.
func (p *Pod) Replace() *Pod {
	p.node.t.Helper()
	p.Kill()
	s := p.spec
	s.Namespace, s.Name, s.UID, s.In = p.Namespace, p.Name, "", nil
	return p.node.Start(s)
}
