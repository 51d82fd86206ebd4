package nstest

import (
	"os/exec"
	"testing"
)

// Peer is a second host: a network namespace behind two links, each with an IPv4
// and an IPv6 address on both ends.
type Peer struct {
	*Namespace
}

// Addresses of the links. The peer announces its second IPv4 address as a path to
// MPTCP connections that lead to the first.
const (
	Local4, Peer4       = "10.99.0.1", "10.99.0.2"
	Local6, Peer6       = "fd99:0::1", "fd99:0::2"
	Local4Two, Peer4Two = "10.99.1.1", "10.99.1.2"
)

// NewPeer makes the peer. It is for tests inside Run only and needs iproute2. Where
// the kernel has no MPTCP it announces no path.
func NewPeer(t *testing.T) *Peer {
	t.Helper()
	peer := &Peer{NewNamespace(t, "peer")}
	for _, command := range [][]string{
		{"ip", "link", "add", "one", "type", "veth", "peer", "name", "one", "netns", "peer"},
		{"ip", "link", "add", "two", "type", "veth", "peer", "name", "two", "netns", "peer"},
		{"ip", "addr", "add", Local4 + "/24", "dev", "one"},
		{"ip", "addr", "add", Local6 + "/64", "dev", "one", "nodad"},
		{"ip", "addr", "add", Local4Two + "/24", "dev", "two"},
		{"ip", "link", "set", "one", "up"},
		{"ip", "link", "set", "two", "up"},
		{"ip", "-n", "peer", "addr", "add", Peer4 + "/24", "dev", "one"},
		{"ip", "-n", "peer", "addr", "add", Peer6 + "/64", "dev", "one", "nodad"},
		{"ip", "-n", "peer", "addr", "add", Peer4Two + "/24", "dev", "two"},
		{"ip", "-n", "peer", "link", "set", "one", "up"},
		{"ip", "-n", "peer", "link", "set", "two", "up"},
	} {
		Command(t, command...)
	}
	if HasMPTCP() {
		Command(t, "ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
		Command(t, "ip", "-n", "peer", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
		Command(t, "ip", "-n", "peer", "mptcp", "endpoint", "add", Peer4Two, "dev", "two", "signal")
	}
	return peer
}

// Cut takes the peer's ends of the links down: what is sent to it is lost, and
// nothing comes back.
func (p *Peer) Cut(links ...string) {
	p.t.Helper()
	for _, link := range links {
		Command(p.t, "ip", "-n", "peer", "link", "set", link, "down")
	}
}

// Restore undoes Cut.
func (p *Peer) Restore(links ...string) {
	p.t.Helper()
	for _, link := range links {
		Command(p.t, "ip", "-n", "peer", "link", "set", link, "up")
	}
}

// Command runs a program and fails the test when that fails.
func Command(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}
