package nstest

import (
	"os/exec"
	"testing"
)

// Peer is a second host: a network namespace behind two links.
type Peer struct {
	*Namespace
}

// Addresses of the links. The peer announces Peer4Two with ADD_ADDR on MPTCP connections to
// Peer4 (RFC 8684).
const (
	Local4, Peer4       = "10.99.0.1", "10.99.0.2"
	Local6, Peer6       = "fd99:0::1", "fd99:0::2"
	Local4Two, Peer4Two = "10.99.1.1", "10.99.1.2"
)

// NewPeer creates the peer. It must be called within Run and needs iproute2. Without MPTCP
// the peer announces no address.
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

// Cut takes the peer's interfaces of links down. Packets in both directions are lost.
func (p *Peer) Cut(links ...string) {
	p.t.Helper()
	for _, link := range links {
		Command(p.t, "ip", "-n", "peer", "link", "set", link, "down")
	}
}

// Restore takes the interfaces up again.
func (p *Peer) Restore(links ...string) {
	p.t.Helper()
	for _, link := range links {
		Command(p.t, "ip", "-n", "peer", "link", "set", link, "up")
	}
}

// Command runs a program and returns its output. If the program fails, so does the test.
func Command(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}
