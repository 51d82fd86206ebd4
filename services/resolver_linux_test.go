package services

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/test/kit/nstest"
)

// startDNSMasq runs dnsmasq at an address with hosts, which has lines such as
// "db.internal 10.0.0.1", and one SRV record.
func startDNSMasq(t *testing.T, at netip.AddrPort, hosts ...string) {
	t.Helper()
	args := []string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts", "--bind-interfaces",
		"--listen-address=" + at.Addr().String(), fmt.Sprintf("--port=%d", at.Port()), "--local=/internal/", "--domain-needed",
		"--srv-host=_pg._tcp.internal,db.internal,5432",
	}
	for _, host := range hosts {
		args = append(args, "--host-record="+strings.ReplaceAll(host, " ", ","))
	}
	cmd := exec.CommandContext(t.Context(), "dnsmasq", args...)
	cmd.Stdout = t.Output()
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	nstest.Eventually(t, "dnsmasq accepts connections", func() bool {
		conn, err := net.Dial("tcp", at.String())
		return err == nil && conn.Close() == nil
	})
}

// With a resolver, /etc/resolv.conf and /etc/hosts have no effect on a lookup, and errors
// name the resolver.
func TestPrivilegedResolver(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		system := serveDNS(t, "10.9.0.1 hosted.internal\n", "search internal\noptions timeout:10 attempts:1\n", zone(map[string]string{
			"db.internal": "10.0.0.1 fd00::1", "gone.internal": "10.0.0.1", "short.internal": "10.0.0.1",
		}))
		first, second := netip.MustParseAddrPort("127.0.0.2:53"), netip.MustParseAddrPort("[::1]:5353")
		startDNSMasq(t, first, "db.internal 10.1.0.1 fd01::1", "hosted.internal 10.1.0.2", "short.internal 10.1.0.3")
		startDNSMasq(t, second, "db.internal 10.2.0.1")
		silent := netip.MustParseAddrPort("127.0.0.9:53")
		for _, tt := range []struct {
			name     string
			resolver netip.AddrPort
			wants    [len(families)]string // addresses, or the reason for the failure
			inError  string
		}{
			{name: "db.internal", wants: [...]string{"10.0.0.1", "fd00::1"}},
			{name: "db.internal", resolver: first, wants: [...]string{"10.1.0.1", "fd01::1"}},
			{name: "DB.internal.", resolver: first, wants: [...]string{"10.1.0.1", "fd01::1"}},
			{name: "db.internal", resolver: second, wants: [...]string{"10.2.0.1", "not found"}, inError: "on [::1]:5353: no such host"},
			{name: "_pg._tcp.internal", resolver: first, wants: [...]string{"10.1.0.1", "fd01::1"}},
			{name: "_pg._tcp.internal", resolver: second, wants: [...]string{"10.2.0.1", "not found"}},
			{name: "short", wants: [...]string{"10.0.0.1", "not found"}},
			{name: "short", resolver: first, wants: [...]string{"not found", "not found"}, inError: "the search list is not used"},
			{name: "hosted.internal", wants: [...]string{"10.9.0.1", "not found"}},
			{name: "hosted.internal", resolver: first, wants: [...]string{"hosts file", "not found"}, inError: "/etc/hosts"},
			{name: "gone.internal", resolver: first, wants: [...]string{"not found", "not found"}, inError: "on 127.0.0.2:53: no such host"},
			{name: "db.internal", resolver: silent, wants: [...]string{"exchange", "exchange"}, inError: "on 127.0.0.9:53: "},
		} {
			for _, f := range families {
				addrs, err := lookup(t.Context(), Service{Name: tt.name, Resolver: tt.resolver}, f)
				got := texts(addrs)
				if err != nil {
					got = reason(err)
				}
				if got != tt.wants[f] {
					t.Errorf("%s at %s, %s: %q, want %q; %v", tt.name, tt.resolver, f, got, tt.wants[f], err)
				}
				if err == nil || tt.inError == "" {
					continue
				}
				if !strings.Contains(err.Error(), tt.inError) || strings.Contains(err.Error(), "on 127.0.0.1:53") {
					t.Errorf("%s at %s, %s: error %q, want %q", tt.name, tt.resolver, f, err, tt.inError)
				}
			}
		}
		if n := system.asked("gone.internal A") + system.asked("_pg._tcp.internal SRV"); n > 0 {
			t.Errorf("the server of /etc/resolv.conf was asked %d times", n)
		}
	})
}

// A reload changes the resolver of a service.
func TestPrivilegedReloadResolver(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		serveDNS(t, "", "options timeout:1 attempts:1\n", zone(nil))
		first, second := netip.MustParseAddrPort("127.0.0.2:53"), netip.MustParseAddrPort("[::1]:53")
		startDNSMasq(t, first, "db.internal 10.1.0.1 fd01::1")
		startDNSMasq(t, second, "db.internal 10.2.0.1")
		service := Service{Name: "db.internal", Port: 5432, Settle: time.Second, Interval: time.Second, Resolver: first}
		w := start(t, Config{Services: []Service{service}}, lookup)
		awaitAddresses(t, w, service.Name, "10.1.0.1 fd01::1", "")
		service.Resolver = second
		if err := w.Reload([]Service{service}); err != nil {
			t.Fatal(err)
		}
		awaitAddresses(t, w, service.Name, "10.2.0.1", "")
		if got := w.Status()[0]; got.Resolver != second {
			t.Errorf("status: %+v", got)
		}
	})
}

// lineWriter sends what is written to it.
type lineWriter chan<- string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

// The addresses of one resolver are not former ones after a reload, or a restart, with
// another resolver, even if a lookup was running.
func TestResolverChanges(t *testing.T) {
	first, second := netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("10.96.0.11:53")
	answers := map[netip.AddrPort][]netip.Addr{first: addrs(t, "10.0.0.1"), second: addrs(t, "10.0.0.2"), {}: addrs(t, "10.0.0.3")}
	lookup := func(_ context.Context, s Service, f family) ([]netip.Addr, error) {
		time.Sleep(time.Second)
		return ofFamily(f, answers[s.Resolver], nil)
	}
	with := func(resolver netip.AddrPort) Config {
		c := oneService(time.Minute)
		c.Services[0].Resolver = resolver
		return c
	}
	synctest.Test(t, func(t *testing.T) {
		directory := t.TempDir()
		c := with(first)
		lines := make(chan string, 100)
		c.StateDirectory, c.Logger = directory, slog.New(slog.NewTextHandler(lineWriter(lines), nil))
		w, stop := run(t, c, lookup)
		time.Sleep(500 * time.Millisecond) // the first lookup is running
		if err := w.Reload(with(second).Services); err != nil {
			t.Fatal(err)
		}
		time.Sleep(700 * time.Millisecond)
		wantAddresses(t, w, "db.internal", "", "") // that of the old resolver has ended
		if len(lines) > 0 {
			t.Errorf("log: %s", <-lines)
		}
		time.Sleep(time.Hour)
		wantAddresses(t, w, "db.internal", "10.0.0.2", "")
		if err := w.Reload(with(first).Services); err != nil {
			t.Fatal(err)
		}
		wantAddresses(t, w, "db.internal", "", "")
		time.Sleep(time.Hour)
		wantAddresses(t, w, "db.internal", "10.0.0.1", "")
		stop()
		saved, err := ReadState(directory, "db.internal")
		if err != nil || saved.Resolver != first || texts(saved.Current) != "10.0.0.1" {
			t.Errorf("state: %+v, %v", saved, err)
		}

		for resolver, loaded := range map[netip.AddrPort]string{first: "10.0.0.1", second: "", {}: ""} {
			c := with(resolver)
			c.StateDirectory = directory
			again, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			wantAddresses(t, again, "db.internal", loaded, "")
		}
	})
}
