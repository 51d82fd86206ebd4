package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// nameServer is a dnsmasq for the domain internal. on 127.0.0.1, set in resolv.conf.
type nameServer struct {
	*process
	t     *testing.T
	hosts string
}

// startNameServer starts dnsmasq and replaces resolv.conf and hosts in the test's mount
// namespace. args are additional options of dnsmasq.
func startNameServer(t *testing.T, args ...string) *nameServer {
	t.Helper()
	dnsmasq := need(t, "dnsmasq", "dnsmasq")
	s := &nameServer{t: t, hosts: filepath.Join(t.TempDir(), "names")}
	s.set()
	bind(t, "/etc/resolv.conf", "nameserver 127.0.0.1\nsearch internal\noptions timeout:1 attempts:1\n")
	bind(t, "/etc/hosts", "127.0.0.1 localhost\n")
	s.process = startProcess(t, dnsmasq, append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts", "--no-negcache",
		"--listen-address=127.0.0.1", "--bind-interfaces", "--local=/internal/", "--local-ttl=1", "--addn-hosts=" + s.hosts,
	}, args...)...)
	nstest.Eventually(t, "dnsmasq answers", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:53")
		return err == nil && conn.Close() == nil
	})
	return s
}

// set replaces all records. Each argument is a name and its addresses, separated by spaces.
func (s *nameServer) set(names ...string) {
	s.t.Helper()
	var hosts strings.Builder
	for _, name := range names {
		words := strings.Fields(name)
		for _, address := range words[1:] {
			fmt.Fprintf(&hosts, "%s %s\n", address, words[0])
		}
	}
	if err := os.WriteFile(s.hosts, []byte(hosts.String()), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if s.process != nil {
		s.signal(syscall.SIGHUP) // reloads the file
	}
}

func (s *nameServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// bind mounts a file with this content over a path, in the test's mount namespace only.
func bind(t *testing.T, over, content string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(over))
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, over, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

// becomes waits until a series has the value.
func becomes(t *testing.T, series string, want float64) {
	t.Helper()
	nstest.Eventually(t, fmt.Sprintf("%s becomes %v", series, want), func() bool {
		value, ok := sample(t, series)
		return ok && value == want
	})
}

// addressesOf returns the address series of a service, socketsOf the socket series of
// serviceName.
func addressesOf(service, which string) string {
	return fmt.Sprintf(`tcphup_service_addresses{address=%q,service=%q}`, which, service)
}

func socketsOf(which string) string {
	return fmt.Sprintf(`tcphup_service_sockets{address=%q,service=%q}`, which, serviceName)
}

func mustAddrPort(t *testing.T, host string, port uint16) netip.AddrPort {
	t.Helper()
	address, err := netip.ParseAddr(host)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(address, port)
}
