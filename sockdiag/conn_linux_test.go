package sockdiag

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

func mustDial(t *testing.T) *Conn {
	t.Helper()
	c, err := Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func collect(t *testing.T, c *Conn, q Query) []Flow {
	t.Helper()
	var flows []Flow
	for f, err := range c.Flows(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, f)
	}
	return flows
}

func listen(t *testing.T, address string, mptcp bool) net.Listener {
	t.Helper()
	var c net.ListenConfig
	c.SetMultipathTCP(mptcp)
	ln, err := c.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// connect opens a connection from a local address, or an ephemeral port for "".
func connect(t *testing.T, ln net.Listener, from, to string, mptcp bool) (client, server *net.TCPConn) {
	t.Helper()
	var d net.Dialer
	if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	d.SetMultipathTCP(mptcp)
	dialed, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialed.Close() })
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

// pair opens a connection to a new listener and returns both sockets.
func pair(t *testing.T, address, host string, mptcp bool) (client, server *net.TCPConn) {
	t.Helper()
	if mptcp {
		nstest.NeedMPTCP(t)
	}
	ln := listen(t, address, mptcp)
	return connect(t, ln, "", fmt.Sprintf("%s:%d", host, ln.Addr().(*net.TCPAddr).Port), mptcp)
}

func localOf(c net.Conn) netip.AddrPort { return c.LocalAddr().(*net.TCPAddr).AddrPort() }

func remoteOf(c net.Conn) netip.AddrPort { return c.RemoteAddr().(*net.TCPAddr).AddrPort() }

// socketCookie reads SO_COOKIE, the reference for Flow.Cookie.
func socketCookie(t *testing.T, c *net.TCPConn) (cookie uint64) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		cookie, optErr = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	})
	if err := errors.Join(err, optErr); err != nil {
		t.Fatal(err)
	}
	return cookie
}

func TestPrivilegedFlows(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		tests := []struct {
			name         string
			listen, dial string
			mptcp        bool
			family       Family
		}{
			{name: "ipv4", listen: "127.0.0.2:0", dial: "127.0.0.2", family: IPv4},
			{name: "ipv6", listen: "[::1]:0", dial: "[::1]", family: IPv6},
			{name: "mptcp ipv4", listen: "127.0.0.1:0", dial: "127.0.0.1", mptcp: true, family: IPv4},
			{name: "mptcp ipv6", listen: "[::1]:0", dial: "[::1]", mptcp: true, family: IPv6},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				client, server := pair(t, tt.listen, tt.dial, tt.mptcp)
				if _, err := server.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				protocol := TCP
				if tt.mptcp {
					protocol = MPTCP
				}
				want := localOf(client)
				c := mustDial(t)
				flows := collect(t, c, Query{Protocol: protocol, States: Open, Info: true})
				i := slices.IndexFunc(flows, func(f Flow) bool { return f.Local == want })
				if i < 0 {
					t.Fatalf("no flow from %v in %v", want, flows)
				}
				f := flows[i]
				if remote := remoteOf(client); f.Remote != remote {
					t.Errorf("remote is %v, want %v", f.Remote, remote)
				}
				if f.Family != tt.family || f.Protocol != protocol || f.State != Established {
					t.Errorf("got family %d, protocol %v, state %v", f.Family, f.Protocol, f.State)
				}
				if cookie := socketCookie(t, client); f.Cookie != cookie {
					t.Errorf("cookie is %d, SO_COOKIE is %d", f.Cookie, cookie)
				}
				if inode := fdInode(t, client); uint64(f.Inode) != inode {
					t.Errorf("inode is %d, st_ino is %d", f.Inode, inode)
				}
				if tt.mptcp != (f.ReceiveQueue > 5) || f.ReceiveQueue < 5 {
					t.Errorf("receive queue is %d for 5 unread bytes", f.ReceiveQueue)
				}
				if tt.mptcp {
					if !f.HasMPTCPInfo || f.MPTCPInfo.Token == 0 || f.MPTCPInfo.Fallback() {
						t.Errorf("mptcp_info is %+v", f.MPTCPInfo)
					}
					sub := collect(t, c, Query{States: Open, Info: true, Selector: selectorFor(f.Remote)})
					j := slices.IndexFunc(sub, func(s Flow) bool { return s.Local == want })
					if j < 0 || !sub[j].IsSubflow || sub[j].Subflow.Token != f.MPTCPInfo.Token || sub[j].Inode != f.Inode || sub[j].Subflow.Join() {
						t.Errorf("no initial subflow of %+v in %+v", f, sub)
					}
				}

				again, err := c.Lookup(t.Context(), &f)
				if err != nil {
					t.Fatal(err)
				}
				if again.Cookie != f.Cookie || again.State != Established || again.Local != f.Local {
					t.Errorf("lookup found %+v", again)
				}
				other := f
				other.Cookie++
				if _, err := c.Lookup(t.Context(), &other); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("lookup with another cookie: %v, want os.ErrNotExist", err)
				}
				if err := client.Close(); err != nil {
					t.Fatal(err)
				}
				if err := server.Close(); err != nil {
					t.Fatal(err)
				}
				nstest.Eventually(t, "closed flow is gone or in TIME_WAIT", func() bool {
					left, err := c.Lookup(t.Context(), &f)
					return errors.Is(err, os.ErrNotExist) || err == nil && (left.State == TimeWait || left.State == Close)
				})
			})
		}
	})
}

func selectorFor(remote netip.AddrPort) *Selector {
	return &Selector{
		Destinations: []netip.Prefix{netip.PrefixFrom(remote.Addr(), remote.Addr().BitLen())},
		Ports:        Ports(remote.Port()),
	}
}

func fdInode(t *testing.T, c *net.TCPConn) uint64 {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	var statErr error
	err = raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) })
	if err := errors.Join(err, statErr); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// A JVM uses IPv6 sockets for IPv4 connections.
func TestPrivilegedMapped(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		client, _ := pair(t, "[::]:0", "127.0.0.1", false)
		server := remoteOf(client)
		c := mustDial(t)
		for _, dst := range []string{"127.0.0.1/32", "127.0.0.0/8"} {
			s := &Selector{Destinations: []netip.Prefix{netip.MustParsePrefix(dst)}, Ports: Ports(server.Port())}
			flows := collect(t, c, Query{States: Open, Families: []Family{IPv6}, Selector: s})
			if len(flows) != 1 || !flows[0].Mapped() || flows[0].Local != server {
				t.Fatalf("%s selects %+v, want only the accepted IPv6 socket", dst, flows)
			}
			if _, err := c.Lookup(t.Context(), &flows[0]); err != nil {
				t.Fatal(err)
			}
		}
		wide := &Selector{Destinations: []netip.Prefix{netip.MustParsePrefix("::/0")}}
		if flows := collect(t, c, Query{States: Open, Selector: wide}); len(flows) != 0 {
			t.Errorf("::/0 selects IPv4-mapped flows: %+v", flows)
		}
	})
}

func TestPrivilegedDestroy(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		c := mustDial(t)
		for _, family := range []Family{IPv4, IPv6} { // IPv4 client, IPv4-mapped server
			client, _ := pair(t, "[::]:0", "127.0.0.1", false)
			s := selectorFor(remoteOf(client))
			flows := collect(t, c, Query{States: Open, Families: []Family{family}, Selector: s})
			if len(flows) != 1 {
				t.Fatalf("got %d flows of family %d, want 1", len(flows), family)
			}
			wrong := flows[0]
			wrong.Cookie++
			if err := c.Destroy(t.Context(), &wrong); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("destroy with another cookie: %v, want os.ErrNotExist", err)
			}
			if _, err := c.Lookup(t.Context(), &flows[0]); err != nil {
				t.Errorf("after a destroy with another cookie: %v", err)
			}
			if err := c.Destroy(t.Context(), &flows[0]); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("read after destroy of family %d: %v, want ECONNABORTED or ECONNRESET", family, err)
			}
			if err := c.Destroy(t.Context(), &flows[0]); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("second destroy: %v, want os.ErrNotExist", err)
			}
		}
	})
}

// Destroy sends no request for a flow without a cookie or for an MPTCP connection.
func TestPrivilegedDestroyRefuses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.TCPAndMPTCP(t, func(t *testing.T, mptcp bool) {
			client, _ := pair(t, "127.0.0.1:0", "127.0.0.1", mptcp)
			local := localOf(client)
			c := mustDial(t)
			query := Query{States: Open, Info: true}
			if mptcp {
				query.Protocol = MPTCP
			}
			flows := collect(t, c, query)
			i := slices.IndexFunc(flows, func(f Flow) bool { return f.Local == local })
			if i < 0 {
				t.Fatalf("no flow from %v in %v", local, flows)
			}
			if mptcp {
				if err := c.Destroy(t.Context(), &flows[i]); !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("destroy of an MPTCP connection: %v", err)
				}
			} else {
				// For noCookie the kernel would compare addresses only.
				for _, cookie := range []uint64{0, noCookie} {
					flow := flows[i]
					flow.Cookie = cookie
					if err := c.Destroy(t.Context(), &flow); err == nil {
						t.Errorf("destroy with cookie %#x: no error", cookie)
					}
				}
			}
			if _, err := client.Write([]byte("x")); err != nil {
				t.Errorf("mptcp %t: %v", mptcp, err)
			}
		})
	})
}

// Lookup compares the cookie itself and does not rely on the kernel.
func TestPrivilegedLookupComparesCookie(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		pair(t, "127.0.0.1:0", "127.0.0.1", false)
		c := mustDial(t)
		flow := collect(t, c, Query{States: Open})[0]
		kernel := c.receive
		c.receive = func(b []byte) (int, error) {
			n, err := kernel(b)
			b[headerLen+44] ^= 1 // id.idiag_cookie of struct inet_diag_msg
			return n, err
		}
		if found, err := c.Lookup(t.Context(), &flow); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %+v, %v, want os.ErrNotExist", found, err)
		}
	})
}

// The socket rejects messages from any sender except the kernel.
func TestPrivilegedOnlyFromKernel(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		open := func() int {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Close(fd) })
			if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				t.Fatal(err)
			}
			return fd
		}
		portOf := func(fd int) uint32 {
			name, err := unix.Getsockname(fd)
			if err != nil {
				t.Fatal(err)
			}
			return name.(*unix.SockaddrNetlink).Pid
		}
		sender := open()
		send := func(to uint32) error {
			return unix.Sendto(sender, make([]byte, headerLen), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: to})
		}
		if err := send(portOf(mustDial(t).transport.fd)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("message from another socket: %v, want %v", err, unix.ECONNREFUSED)
		}
		if err := send(portOf(open())); err != nil { // the control: an unconnected socket
			t.Errorf("message to an unconnected socket: %v", err)
		}
	})
}
