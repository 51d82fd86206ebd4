package nstest

import (
	"os"
	"testing"

	"tcphup/test/kit/netns"
)

// Namespace is a second network namespace, as another host or pod has it.
type Namespace struct {
	t  testing.TB
	ns *netns.Namespace
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
	n := open(t, "/run/netns/"+name)
	var err error
	n.Do(func() { err = hideMPTCP() })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// NamespaceOf returns the network namespace that a process has, a container's say.
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

// Do calls fn in the namespace; the sockets that it opens stay there.
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
