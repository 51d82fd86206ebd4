package nstest

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Namespace is a second network namespace, as another host or pod has it.
type Namespace struct {
	t  testing.TB
	ns *os.File
}

// NewNamespace makes a named network namespace (ip-netns(8)) with nothing in it but
// the loopback device, which is up. It is for tests inside Run only and needs
// iproute2.
func NewNamespace(t testing.TB, name string) *Namespace {
	t.Helper()
	if os.Getenv(marker) == "" {
		t.Fatal("NewNamespace outside of Run would change this machine's network")
	}
	Command(t, "ip", "netns", "add", name)
	Command(t, "ip", "-n", name, "link", "set", "lo", "up")
	ns, err := os.Open("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return &Namespace{t: t, ns: ns}
}

// NamespaceOf returns the network namespace that a process has, a container's say.
func NamespaceOf(t testing.TB, pid string) *Namespace {
	t.Helper()
	ns, err := os.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return &Namespace{t: t, ns: ns}
}

// Do calls fn in the namespace; the sockets that it opens stay there.
func (n *Namespace) Do(fn func()) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		// The thread is not unlocked, so it ends with the goroutine and never runs
		// anything else in the wrong namespace.
		runtime.LockOSThread()
		err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		n.t.Fatalf("enter network namespace: %v", err)
	}
}
