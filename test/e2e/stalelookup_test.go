package e2e

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// serveA serves DNS on 127.0.0.1 until the test ends. Every name has the IPv4 address; the
// response to other questions has the code, or is missing for dropped.
func serveA(t *testing.T, address [4]byte, code dnsmessage.RCode) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			r := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
			switch {
			case q.Type == dnsmessage.TypeA:
				r.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}, Body: &dnsmessage.AResource{A: address},
				}}
			case code == dropped:
				continue
			default:
				r.RCode = code
			}
			if packed, err := r.Pack(); err == nil {
				_, _ = conn.WriteTo(packed, from)
			}
		}
	}()
}

const dropped dnsmessage.RCode = 0xffff

// TestPrivilegedStaleFamilyFails checks that --stale with a server that fails AAAA queries
// selects former IPv4 addresses and leaves IPv6 addresses alone.
func TestPrivilegedStaleFamilyFails(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]dnsmessage.RCode{
		"refused": dnsmessage.RCodeRefused, "notimp": dnsmessage.RCodeNotImplemented, "servfail": dnsmessage.RCodeServerFailure, "dropped": dropped,
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				bind(t, "/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
				bind(t, "/etc/hosts", "127.0.0.1 localhost\n")
				serveA(t, [4]byte{127, 0, 1, 2}, code)
				server := testapp.Serve(t, testapp.ServerConfig{Address: oldAddress + ":0"})
				app := testapp.Start(t, testapp.Build(t))
				app.Call("ignore")
				fd := app.Connect(server.Addr(), false, false)
				r := tcphup(t, fmt.Sprintf("--stale=%s:%d", serviceName, server.Addr().Port()), "--former="+oldAddress, "--former=fd00::9")
				r.mustExit(t, 0)
				if !strings.Contains(r.stderr, "1 closed") || !strings.Contains(r.stderr, "fd00::9 left alone: cannot look up current addresses") {
					t.Errorf("stderr: %s", r.stderr)
				}
				if got := app.Call("recv %d", fd); got != "recv ok 0" {
					t.Errorf("application: %q, want EOF", got)
				}
			})
		})
	}
}

// TestPrivilegedStaleResolver checks that --stale asks the name server of the service in the
// state file, which has another current address than that of /etc/resolv.conf.
func TestPrivilegedStaleResolver(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		startNameServer(t).set(serviceName + " " + newAddress)
		startProcess(t, need(t, "dnsmasq", "dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts",
			"--listen-address=127.0.0.2", "--bind-interfaces", "--local=/internal/", "--host-record="+serviceName+","+oldAddress)
		nstest.Eventually(t, "the second name server accepts connections", func() bool {
			conn, err := net.Dial("tcp", "127.0.0.2:53")
			return err == nil && conn.Close() == nil
		})
		server := testapp.Serve(t, testapp.ServerConfig{Address: oldAddress + ":0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, false)
		for _, tt := range []struct{ resolver, want, application string }{
			{`"resolver": "127.0.0.2:53",`, oldAddress + " left alone: " + serviceName + " resolves to it", "write ok 1"},
			{"", "1 closed", "write EPIPE -1"},
		} {
			state := stateOf(t, fmt.Sprintf(`{"version": 1, "services": [{"name": %q, "port": %d, %s
				"addresses": [{"address": %q, "former": "2026-03-14T09:26:53Z"}]}]}`, serviceName, server.Addr().Port(), tt.resolver, oldAddress))
			r := tcphup(t, "--stale="+serviceName, "--state.directory="+state)
			r.mustExit(t, 0)
			if !strings.Contains(r.stderr, tt.want) {
				t.Errorf("resolver %q: stderr: %s", tt.resolver, r.stderr)
			}
			if got := app.Call("write %d", fd); got != tt.application {
				t.Errorf("resolver %q: application: %q, want %q", tt.resolver, got, tt.application)
			}
		}
	})
}

// TestPrivilegedNameFamilyFails checks names in HOST and --except with a server that fails AAAA
// queries: a connection to an IPv6 address may lead to the current address of the name.
func TestPrivilegedNameFamilyFails(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]dnsmessage.RCode{
		"refused": dnsmessage.RCodeRefused, "servfail": dnsmessage.RCodeServerFailure, "dropped": dropped,
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				bind(t, "/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
				bind(t, "/etc/hosts", "127.0.0.1 localhost\n")
				serveA(t, [4]byte{127, 0, 1, 2}, code)
				server := testapp.Serve(t, testapp.ServerConfig{Address: "[::1]:0"})
				app := testapp.Start(t, testapp.Build(t))
				app.Call("ignore")
				fd := app.Connect(server.Addr(), false, false)
				port := strconv.Itoa(int(server.Addr().Port()))
				r := tcphup(t, "::/1", port, "--yes", "--except="+serviceName)
				r.mustExit(t, 2)
				if !strings.Contains(r.stderr, "--except "+serviceName+": cannot look up all its addresses: AAAA: ") {
					t.Errorf("--except: %s", r.stderr)
				}
				r = tcphup(t, serviceName, port)
				r.mustExit(t, 0)
				if !strings.Contains(r.stderr, "warning: cannot look up all addresses of "+serviceName+": AAAA: ") || strings.Contains(r.stderr, "elsewhere") {
					t.Errorf("HOST: %s", r.stderr)
				}
				if got := app.Call("write %d", fd); got != "write ok 1" {
					t.Errorf("application: %q", got)
				}
			})
		})
	}
}
