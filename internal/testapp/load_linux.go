package testapp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Load opens n connections from one new process to another, to the address given
// and a port of the kernel's choice, and keeps them until the test ends. The
// processes ignore SIGPIPE, as most long-lived ones do. It returns where the
// connections lead and the process that opened them.
func Load(t testing.TB, binary string, to netip.Addr, n int) (netip.AddrPort, *App) {
	t.Helper()
	server, client := Start(t, binary), Start(t, binary)
	server.Ask("ignore")
	client.Ask("ignore")
	answer := server.Ask("listen %s", to)
	var fd, port int
	if _, err := fmt.Sscanf(answer, "listen ok %d %d", &fd, &port); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	server.Tell("accept %d %d", fd, n)
	client.Tell("many %s %d %d", to, port, n)
	for _, app := range []*App{client, server} {
		answer := app.hearWithin(time.Minute)
		if !strings.HasSuffix(answer, fmt.Sprintf(" ok %d", n)) {
			t.Fatalf("open %d connections: %s", n, answer)
		}
	}
	return netip.AddrPortFrom(to, uint16(port)), client
}
