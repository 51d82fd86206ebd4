package sockdiag

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// fixture has sockets of many kinds in one network namespace.
type fixture struct {
	t       *testing.T
	conn    *Conn
	random  *rand.ChaCha8
	bound   map[netip.AddrPort]bool // clients bound to a port
	marked  map[netip.AddrPort]bool // clients with testMark
	address []netip.Addr
	ports   []uint16
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	c := &fixture{
		t: t, conn: mustDial(t), random: rand.NewChaCha8([32]byte{'s', 'e', 'e', 'd'}),
		bound: make(map[netip.AddrPort]bool), marked: make(map[netip.AddrPort]bool),
		address: []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()},
	}
	for _, a := range []string{"10.1.0.1", "10.1.0.2", "fd00::1", "fd00::2"} {
		nstest.Command(t, "ip", "addr", "add", a, "dev", "lo", "nodad")
	}
	nstest.Eventually(t, "the IPv6 addresses are local", func() bool {
		routes := nstest.Command(t, "ip", "-6", "route", "show", "table", "local")
		return strings.Contains(routes, "local fd00::1 ") && strings.Contains(routes, "local fd00::2 ")
	})
	listeners := []net.Listener{
		listen(t, "0.0.0.0:0", false), listen(t, "[::]:0", false), listen(t, "10.1.0.1:0", false), listen(t, "[::]:0", false),
	}
	for i := range 80 {
		ln := listeners[i%len(listeners)]
		from := [][]string{{"127.0.0.1", "127.0.0.2", "10.1.0.2"}, {"::1", "fd00::1", "fd00::2"}}
		c.connect(ln, from[i%4/3][i%3], i, false)
	}
	return c
}

// connect opens a connection from an address. The number determines local port, mark,
// device and state.
func (c *fixture) connect(ln net.Listener, from string, number int, mptcp bool) {
	c.t.Helper()
	local := &net.TCPAddr{IP: net.ParseIP(from)}
	if number%3 == 0 {
		local.Port = 20000 + number
	}
	mark, device := number%4 == 1, number%5 == 2
	d := net.Dialer{LocalAddr: local, Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			if mark {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, testMark)
			}
			if device {
				err = errors.Join(err, unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"))
			}
		})
		return errors.Join(err, ctlErr)
	}}
	d.SetMultipathTCP(mptcp)
	to := ln.Addr().(*net.TCPAddr)
	host := to.IP
	if host.IsUnspecified() {
		host = local.IP
	}
	client, err := d.DialContext(c.t.Context(), "tcp", net.JoinHostPort(host.String(), fmt.Sprint(to.Port)))
	if err != nil {
		c.t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	end := client.LocalAddr().(*net.TCPAddr).AddrPort()
	c.bound[end], c.marked[end] = number%3 == 0, mark
	c.address = append(c.address, end.Addr(), netip.MustParseAddr(host.String()))
	c.ports = append(c.ports, end.Port(), uint16(to.Port))
	if number%10 == 0 { // TIME_WAIT
		_, _ = client.Close(), server.Close()
	}
}

func (c *fixture) draw() *draw {
	b := make([]byte, 256)
	_, _ = c.random.Read(b)
	return &draw{bytes: b, addresses: c.address, ports: c.ports}
}

// socket returns the interpreter's view of a flow, with the options set by connect.
func (c *fixture) socket(f *Flow) *socket {
	s := newSocket(f)
	if c.marked[f.Local] {
		s.mark = testMark
	}
	s.boundPort = c.bound[f.Local] && f.State != TimeWait
	return &s
}

const everyState = 1<<(MaxState+1) - 1

// dump returns the sockets that a program accepts. A nil program accepts all.
func (c *fixture) dump(protocol Protocol, family Family, p program) ([]Flow, error) {
	attributes := protocolAttributes(protocol)
	if p != nil {
		attributes = append(attributes, netlink.Attribute{Type: reqAttrBytecode, Data: p})
	}
	var flows []Flow
	r := request{family: family, protocol: protocol, info: true, states: everyState}
	for f, err := range c.conn.exchange(c.t.Context(), typeByFamily, netlink.Dump, r, attributes) {
		if err != nil {
			return nil, err
		}
		flows = append(flows, f)
	}
	return flows, nil
}

// dumpAll returns all sockets of a family.
func (c *fixture) dumpAll(protocol Protocol, family Family) []Flow {
	c.t.Helper()
	flows, err := c.dump(protocol, family, nil)
	if err != nil || len(flows) == 0 {
		c.t.Fatalf("%d flows, %v", len(flows), err)
	}
	return flows
}

// cookies returns the sorted cookies of the flows for which want is true.
func cookies(flows []Flow, want func(*Flow) bool) []uint64 {
	all := []uint64{}
	for i := range flows {
		if want(&flows[i]) {
			all = append(all, flows[i].Cookie)
		}
	}
	slices.Sort(all)
	return all
}

func every(*Flow) bool { return true }

// The interpreter and the kernel agree about random programs.
func TestPrivilegedInterpreter(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		c := newFixture(t)
		var rejected, some int
		for _, family := range []Family{IPv4, IPv6} {
			all := c.dumpAll(TCP, family)
			for range 1000 {
				p := c.draw().program()
				got, err := c.dump(TCP, family, p)
				switch valid := p.valid(); {
				case errors.Is(err, unix.EINVAL) && !valid:
					rejected++
					continue
				case err != nil || !valid:
					t.Fatalf("error %v, valid in the interpreter: %t\n% x", err, valid, p)
				}
				want := cookies(all, func(f *Flow) bool { return p.accepts(c.socket(f)) })
				if diff := cmp.Diff(want, cookies(got, every)); diff != "" {
					t.Fatalf("result of % x (-interpreter +kernel):\n%s", p, diff)
				}
				if len(want) > 0 && len(want) < len(all) {
					some++
				}
			}
		}
		t.Logf("2000 programs: %d rejected, %d accepted a part of the sockets", rejected, some)
		if rejected < 100 || some < 200 {
			t.Error("too few programs are rejected or selective")
		}
	})
}

// A filtered dump returns the same flows as a selector applied to a full dump.
func TestPrivilegedSelectors(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		c := newFixture(t)
		for i, host := range []string{"127.0.0.1:0", "[::]:0"} {
			ln := listen(t, host, true)
			for number := range 8 {
				c.connect(ln, []string{"127.0.0.1", "::1"}[i*number%2], 101+20*i+number, true)
			}
		}
		var table Table
		if err := table.ReadListeners(t.Context(), c.conn); err != nil {
			t.Fatal(err)
		}
		nstest.TCPAndMPTCP(t, func(t *testing.T, mptcp bool) {
			protocol, some, enough := TCP, 0, 147
			if mptcp { // there are only 16 MPTCP connections
				protocol, enough = MPTCP, 53
			}
			for _, family := range []Family{IPv4, IPv6} {
				all := c.dumpAll(protocol, family)
				for range 300 {
					s := c.draw().selector()
					kept, err := c.dump(protocol, family, s.bytecode())
					if err != nil {
						t.Fatalf("%+v: %v", s, err)
					}
					want := cookies(all, func(f *Flow) bool { return kernelMayMatch(s, f) })
					if diff := cmp.Diff(want, cookies(kept, every)); diff != "" {
						t.Fatalf("%+v: sockets from the kernel (-want +got):\n%s", s, diff)
					}
					yielded := collect(t, c.conn, Query{Protocol: protocol, Families: []Family{family}, States: everyState, Selector: s})
					match := func(f *Flow) bool { return s.Match(f, table.OwnDirection(f)) }
					want = cookies(all, match)
					if diff := cmp.Diff(want, cookies(yielded, match)); diff != "" {
						t.Fatalf("%+v: matching flows (-want +got):\n%s", s, diff)
					}
					if len(want) > 0 && len(want) < len(all) {
						some++
					}
				}
			}
			t.Logf("600 selectors: %d match a part of the flows", some)
			if some < enough {
				t.Error("too few selectors are selective")
			}
		})
	})
}
