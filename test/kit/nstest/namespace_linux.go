package nstest

import (
	"os"
	"testing"

	"tcphup/test/kit/netns"
)

// Namespace is a second network namespace, for example of another host or pod.
type Namespace struct {
	t  testing.TB
	ns *netns.Namespace
}

// NewNamespace creates a named network namespace (ip-netns(8)) with only a loopback device,
// which is up. It must be called within Run and needs iproute2.
func NewNamespace(t testing.TB, name string) *Namespace {
	t.Helper()
	if os.Getenv(marker) == "" {
		t.Fatal("NewNamespace called outside of Run: it would change the network of the host")
	}
	Command(t, "ip", "netns", "add", name)
	Command(t, "ip", "-n", name, "link", "set", "lo", "up")
	n := open(t, "/run/netns/"+name)
	var err error
	n.Do(func() { err = hideMPTCP() })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// NamespaceOf returns the network namespace of a process, for example of a container.
func NamespaceOf(t testing.TB, pid string) *Namespace {
	t.Helper()
	return open(t, "/proc/"+pid+"/ns/net")
}

func open(t testing.TB, path string) *Namespace {
	t.Helper()
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return &Namespace{t: t, ns: ns}
}

// Do calls fn in the namespace. Sockets of fn stay in the namespace.
func (n *Namespace) Do(fn func()) {
	n.t.Helper()
	err := n.ns.Do(func() error {
		fn()
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
}
