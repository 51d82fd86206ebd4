package e2e

import (
	"fmt"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedSwap swaps the addresses of two watched names, as a failover of a database
// with a name for the writer and one for readers does, and swaps them back. Each time, exactly
// the flows opened before the swap are hung up. The first swap happens while tcphup is stopped.
func TestPrivilegedSwap(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const writer, reader = "writer.internal", "reader.internal"
		dns := startNameServer(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: oldAddress + ":0"})
		port := server.Addr().Port()
		testapp.Serve(t, testapp.ServerConfig{Address: mustAddrPort(t, newAddress, port).String()})
		address := map[string]string{writer: oldAddress, reader: newAddress}
		publish := func() { dns.set(writer+" "+address[writer], reader+" "+address[reader]) }
		publish()

		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		open := func(writers, readers int) (fds []int) {
			for range writers {
				fds = append(fds, app.Connect(mustAddrPort(t, address[writer], port), false, false))
			}
			for range readers {
				fds = append(fds, app.Connect(mustAddrPort(t, address[reader], port), false, false))
			}
			return fds
		}
		args := []string{"--state.directory=" + t.TempDir(), "--config.file=" + writeFile(t, "tcphup.yml", fmt.Sprintf(`
policies:
  - name: failover
    match: ['alertname="TcphupStaleSockets"']
    allow: [%[1]s, %[2]s]
    labels: {service: service}
    limits: {cooldown: 0s}
services:
- {name: %[1]s, port: %[3]d, settle: %[4]s, interval: 1s}
- {name: %[2]s, port: %[3]d, settle: %[4]s, interval: 1s}
`, writer, reader, port, failoverSettle))}
		served := serveArmed(t, args...)
		lookups := func(name string) float64 {
			n, _ := sample(t, fmt.Sprintf("tcphup_service_lookups_total{service=%q}", name))
			return n
		}
		lookedUp := func() { // twice in both families
			t.Helper()
			for _, name := range []string{writer, reader} {
				before := lookups(name)
				nstest.Eventually(t, "lookups of "+name, func() bool { return lookups(name) >= before+5 })
			}
		}
		sockets := func(name, which string) string {
			return fmt.Sprintf("tcphup_service_sockets{address=%q,service=%q}", which, name)
		}
		post := func(name string) string {
			t.Helper()
			request := notificationRequest(t, "http://"+receiverAddress+"/alerts", fmt.Sprintf(`"alertname":"TcphupStaleSockets","service":%q`, name))
			response, err := sendWithToken(request)
			if err != nil || !strings.HasPrefix(response, "200 ") {
				t.Fatalf("response: %s, %v", response, err)
			}
			return response
		}
		for round := range 3 {
			lookedUp()
			stale := open(3, 2)
			lookedUp()
			if round == 0 {
				if err := served.stop(); err != nil {
					t.Fatal(err)
				}
			}
			address[writer], address[reader] = address[reader], address[writer]
			publish()
			if round == 0 {
				serveArmed(t, args...)
			}
			becomes(t, sockets(writer, "former"), 3)
			becomes(t, sockets(reader, "former"), 2)
			lookedUp()
			fresh := open(2, 1)
			for repeat := range 5 {
				answers := post(writer) + post(reader)
				if closed := strings.Contains(answers, `"closed":3`) && strings.Contains(answers, `"closed":2`); closed != (repeat == 0) {
					t.Errorf("round %d, repeat %d: %s", round, repeat, answers)
				}
				// Flows of the other name count as soon as a scrape has seen them.
				if repeat > 0 && strings.Count(answers, `"done":1`) != 2 {
					t.Errorf("round %d, repeat %d: %s", round, repeat, answers)
				}
				for _, fd := range fresh {
					if got := app.Call("write %d", fd); got != "write ok 1" {
						t.Errorf("round %d, repeat %d: flow to a current address: %s", round, repeat, got)
					}
				}
				becomes(t, sockets(writer, "former"), 0)
				becomes(t, sockets(reader, "former"), 0)
			}
			for _, fd := range stale {
				if got := app.Call("recv %d", fd); got != "recv ok 0" {
					t.Errorf("round %d: flow to a former address: %q, want EOF", round, got)
				}
			}
			for _, fd := range append(stale, fresh...) {
				app.Call("close %d", fd)
			}
		}
	})
}
