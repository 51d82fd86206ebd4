package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"tcphup/test/kit/nstest"
)

// TestPrivilegedLookupFailures checks that failed lookups keep the previous addresses, and that
// changes of /etc/hosts and resolv.conf take effect.
func TestPrivilegedLookupFailures(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		dns := startNameServer(t, "--txt-record=empty.internal,nothing else", "--srv-host=_pg._tcp.internal,db.internal,5432")
		var many []string
		for i := range 100 {
			many = append(many, fmt.Sprintf("10.0.%d.1 fd00::%d", i, i))
		}
		names := []string{serviceName + " 127.0.1.1", "flagged.internal 127.0.3.1", "many.internal " + strings.Join(many, " ")}
		dns.set(names...)
		serveArmed(t, "--service=flagged.internal:80", "--config.file="+writeFile(t, "tcphup.yml", `
services:
  - {name: db, port: 5432, settle: 1s, interval: 1s}
  - {name: db.internal, port: 5432, settle: 1s, interval: 1s}
  - {name: _pg._tcp.internal, port: 5432, settle: 1s, interval: 1s}
  - {name: many.internal, port: 80, settle: 1s, interval: 1s}
  - {name: empty.internal, port: 80, settle: 1s, interval: 1s}
  - {name: gone.internal, port: 80, settle: 1s, interval: 1s}
  - {name: hosted.internal, port: 80, settle: 1s, interval: 1s}
`))
		watched := []string{"db", serviceName, "_pg._tcp.internal"}
		for _, name := range watched {
			becomes(t, addressesOf(name, "current"), 1)
		}
		becomes(t, addressesOf("flagged.internal", "current"), 1)
		becomes(t, addressesOf("many.internal", "current"), 200) // exceeds a UDP response
		failures := func(name string) float64 {
			n, _ := sample(t, fmt.Sprintf("tcphup_service_lookup_failures_total{service=%q}", name))
			return n
		}
		fails := func(why string, names ...string) {
			t.Helper()
			before := make(map[string]float64)
			for _, name := range names {
				before[name] = failures(name)
			}
			for _, name := range names {
				nstest.Eventually(t, why+" is counted for "+name, func() bool { return failures(name) > before[name] })
			}
		}
		unchanged := func(when string) {
			t.Helper()
			for _, name := range watched {
				current, _ := sample(t, addressesOf(name, "current"))
				former, _ := sample(t, addressesOf(name, "former"))
				if current != 1 || former != 0 {
					t.Errorf("%s: %s has %v current and %v former addresses", when, name, current, former)
				}
			}
		}
		// Never resolved: no address series.
		for _, name := range []string{"empty.internal", "gone.internal"} {
			nstest.Eventually(t, "a failure of "+name, func() bool { return failures(name) > 0 })
			if _, ok := sample(t, addressesOf(name, "current")); ok {
				t.Errorf("%s has addresses", name)
			}
		}
		dns.set(names[2]) // NXDOMAIN
		fails("NXDOMAIN", watched...)
		unchanged("NXDOMAIN")
		dns.set(names...)
		dns.signal(syscall.SIGSTOP)
		hosts, err := os.OpenFile("/etc/hosts", os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer hosts.Close()
		if _, err := hosts.WriteString("127.0.3.1 hosted.internal\n::1 hosted.internal\n"); err != nil {
			t.Fatal(err)
		}
		becomes(t, addressesOf("hosted.internal", "current"), 2)
		fails("a timeout", watched...)
		unchanged("timeout")
		dns.signal(syscall.SIGCONT)
		if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.2\nsearch internal\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		fails("an unreachable server", watched...)
		unchanged("no server")
		if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.2\nnameserver 127.0.0.1\nsearch internal\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		dns.set(serviceName+" 127.0.1.2", names[2])
		for _, name := range watched {
			becomes(t, addressesOf(name, "former"), 1)
		}
	})
}
