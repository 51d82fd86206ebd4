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
	"tcphup/test/kit/program"
)

// nameServer is a dnsmasq that answers for internal. on 127.0.0.1, and the
// resolver settings of the test lead to it.
type nameServer struct {
	*process
	t     *testing.T
	hosts string
}

// startNameServer makes one for the test's mount namespace; args are more of
// dnsmasq's options.
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

// set gives names their addresses, and takes all others from them: a name and its
// addresses with spaces between them.
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
		s.signal(syscall.SIGHUP) // reads the file again
	}
}

func (s *nameServer) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// bind puts content in place of a file, for this test's mount namespace only.
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

// serveServices runs tcphup with the arguments and returns the process.
func serveServices(t *testing.T, args ...string) *process {
	t.Helper()
	p := startProcess(t, program.Path(t), append([]string{
		"serve", "--web.listen-address=" + tcphupAddress, "--alerts.listen-address=" + receiverAddress,
		"--alerts.token-file=" + writeFile(t, "token", token),
	}, args...)...)
	awaitPage(t, "http://"+tcphupAddress+"/-/ready")
	return p
}

// becomes waits until a series has the value.
func becomes(t *testing.T, series string, want float64) {
	t.Helper()
	nstest.Eventually(t, fmt.Sprintf("%s becomes %v", series, want), func() bool {
		value, ok := sample(t, series)
		return ok && value == want
	})
}

// addressesOf is a series of any service, socketsOf one of serviceName.
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
