package browser_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// nameServer is a dnsmasq that resolves names below internal.
type nameServer struct {
	t     *testing.T
	cmd   *exec.Cmd
	hosts string
}

// startNameServer runs dnsmasq with the names of set, and makes it the resolver in the
// mount namespace of the test.
func startNameServer(t *testing.T, names ...string) *nameServer {
	t.Helper()
	s := &nameServer{t: t, hosts: filepath.Join(t.TempDir(), "names")}
	s.write(names)
	for path, content := range map[string]string{
		"/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
		"/etc/hosts":       "127.0.0.1 localhost\n",
	} {
		if err := unix.Mount(writeFile(t, filepath.Base(path), content), path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	s.cmd = start(t, "dnsmasq",
		"--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts", "--no-negcache",
		"--listen-address=127.0.0.1", "--bind-interfaces", "--local=/internal/", "--local-ttl=1", "--addn-hosts="+s.hosts)
	nstest.Eventually(t, "dnsmasq accepts connections", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:53")
		return err == nil && conn.Close() == nil
	})
	return s
}

// set replaces all names. Each argument is a name, a space and its address.
func (s *nameServer) set(names ...string) {
	s.t.Helper()
	s.write(names)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil { // rereads the file
		s.t.Fatal(err)
	}
}

func (s *nameServer) write(names []string) {
	s.t.Helper()
	var hosts strings.Builder
	for _, entry := range names {
		name, address, _ := strings.Cut(entry, " ")
		fmt.Fprintf(&hosts, "%s %s\n", address, name)
	}
	if err := os.WriteFile(s.hosts, []byte(hosts.String()), 0o644); err != nil {
		s.t.Fatal(err)
	}
}
