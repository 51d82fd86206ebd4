package testapp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
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
	fd, address := server.Listen(to.String())
	server.Tell("accept %d %d", fd, n)
	client.Tell("many %s %d %d", to, address.Port(), n)
	for _, app := range []*App{client, server} {
		answer := app.Hear()
		if !strings.HasSuffix(answer, fmt.Sprintf(" ok %d", n)) {
			t.Fatalf("open %d connections: %s", n, answer)
		}
	}
	return address, client
}
