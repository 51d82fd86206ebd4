package collector

import (
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// shell runs a shell command and returns its output.
func shell(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// silentPeer is a local address that cutLink disconnects.
const silentPeer = "10.1.0.2"

func addSilentPeer(t *testing.T) {
	t.Helper()
	shell(t, "ip addr add 10.1.0.1 dev lo; ip route add local "+silentPeer+" dev lo table local src 10.1.0.1 mtu 1500")
}

// cutLink drops all packets to silentPeer from now on.
func cutLink(t *testing.T) {
	t.Helper()
	shell(t, `ip link add void type veth peer name end; ip link set void up; ip link set end up
		ip neigh add `+silentPeer+` lladdr 02:00:00:00:00:01 dev void
		ip route del local `+silentPeer+` dev lo table local; ip route add `+silentPeer+` dev void src 10.1.0.1`)
}

// connect opens a connection to a new listener at address and returns both ends and the
// destination.
func connect(t *testing.T, address string, mptcp bool, control ...func(fd int) error) (client, server *net.TCPConn, to netip.AddrPort) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(mptcp)
	ln, err := lc.Listen(t.Context(), "tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	client = dial(t, ln.Addr().String(), mptcp)
	for _, fn := range control {
		onSocket(t, client, fn)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return client, accepted.(*net.TCPConn), client.RemoteAddr().(*net.TCPAddr).AddrPort()
}

// connectMapped connects an IPv6 socket to an IPv4 listener, like the JVM.
func connectMapped(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	to := ln.Addr().(*net.TCPAddr).AddrPort()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}); err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return to
}

func dial(t *testing.T, address string, mptcp bool) *net.TCPConn {
	t.Helper()
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: false}, KeepAlive: -1}
	d.SetMultipathTCP(mptcp)
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

func onSocket(t *testing.T, c *net.TCPConn, fn func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fnErr error
	if err := raw.Control(func(fd uintptr) { fnErr = fn(int(fd)) }); err != nil || fnErr != nil {
		t.Fatal(err, fnErr)
	}
}

// keepalive arms the keepalive timer. The first probe follows after the given number of
// seconds, further ones each second.
func keepalive(seconds int) func(fd int) error {
	return func(fd int) error {
		for _, o := range [][3]int{
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 100},
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		} {
			if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
				return err
			}
		}
		return nil
	}
}

// fillWindow writes until the peer's window is closed and the send buffer is full.
func fillWindow(t *testing.T, c *net.TCPConn) {
	t.Helper()
	block := make([]byte, 64<<10)
	nstest.Eventually(t, "the window is closed and the send buffer full", func() (full bool) {
		onSocket(t, c, func(fd int) error {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				return err
			}
			for err == nil {
				_, err = unix.Write(fd, block)
				full = err == unix.EAGAIN && info.Unacked == 0 && info.Notsent_bytes > 0
			}
			if err == unix.EAGAIN {
				return nil
			}
			return err
		})
		return full
	})
}
