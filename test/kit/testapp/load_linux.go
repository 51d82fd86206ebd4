package testapp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// Load opens n connections between two new processes and keeps them until the test ends. The
// server listens on an address and an ephemeral port. The processes ignore SIGPIPE, like
// most daemons. It returns the listening address and the client process.
func Load(t testing.TB, binary string, to netip.Addr, n int) (netip.AddrPort, *App) {
	t.Helper()
	server, client := Start(t, binary), Start(t, binary)
	server.Call("ignore")
	client.Call("ignore")
	fd, address := server.Listen(to.String())
	server.Send("accept %d %d", fd, n)
	client.Send("many %s %d %d", to, address.Port(), n)
	for _, app := range []*App{client, server} {
		answer := app.Receive()
		if !strings.HasSuffix(answer, fmt.Sprintf(" ok %d", n)) {
			t.Fatalf("open %d connections: %s", n, answer)
		}
	}
	return address, client
}
