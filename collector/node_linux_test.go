package collector

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/netns"
	"tcphup/test/kit/nstest"
)

// podNamespace returns the namespace of a pod with this name.
func podNamespace(t *testing.T, ns *netns.Namespace, namespace, name string) hangup.Namespace {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(ns.Path(), &st); err != nil {
		t.Fatal(err)
	}
	return hangup.Namespace{Inode: st.Ino, Do: ns.Do, Pod: &hangup.Pod{Namespace: namespace, Name: name, UID: namespace + name}}
}

// connectFrom opens a connection from a port of 127.0.0.1 or ::1 in the namespace of the calling
// thread, to an address where something listens.
func connectFrom(t *testing.T, port int, to netip.AddrPort) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}}
	if to.Addr().Is6() {
		d.LocalAddr = &net.TCPAddr{IP: net.IPv6loopback, Port: port}
	}
	conn, err := d.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return nil
}

// The series of 50 namespaces equal one dump in each. The namespaces have equal addresses and
// ports, and pods of equal names.
func TestPrivilegedNode(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var found Found
		var listen net.ListenConfig
		want := make(map[string]int) // established sockets by labels
		for i := range 50 {
			ns, err := netns.New()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ns.Close() })
			pod := podNamespace(t, ns, []string{"prod", "test"}[i%2], fmt.Sprintf("web-%d", i/2))
			found.Pods = append(found.Pods, pod)
			err = ns.Do(func() error {
				ln, err := listen.Listen(t.Context(), "tcp", "[::]:5432")
				if err != nil {
					return err
				}
				t.Cleanup(func() { _ = ln.Close() })
				for j := range i % 7 {
					to := netip.MustParseAddrPort([]string{"127.0.1.1:5432", "127.0.1.2:5432", "[::1]:5432"}[j%3])
					if err := connectFrom(t, 40000+j, to); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			c, err := sockdiag.DialIn(pod.Inode, ns.Do)
			if err != nil {
				t.Fatal(err)
			}
			for f, err := range c.Flows(t.Context(), sockdiag.Query{States: sockdiag.States(sockdiag.Established)}) {
				if err != nil {
					t.Fatal(err)
				}
				labels := fmt.Sprintf(`sockets{destination="%s",namespace="%s",pod="%s",port="%d",state="established"}`,
					f.Remote.Addr(), pod.Pod.Namespace, pod.Pod.Name, f.Remote.Port())
				if f.Local.Port() == 5432 {
					labels = fmt.Sprintf(`inbound_sockets{namespace="%s",pod="%s",port="5432",state="established"}`, pod.Pod.Namespace, pod.Pod.Name)
				}
				want[labels]++
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
		c, err := New(Config{Node: &NodeConfig{Find: func() (Found, error) { return found, nil }}})
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for labels, n := range want {
			lines = append(lines, fmt.Sprintf("%s %d", labels, n))
		}
		const all = `node_namespaces{result="read"} 50`
		lines = append(lines, all)
		slices.Sort(lines)
		established := func() []string {
			got := linesOf(scrape(t, c), "sockets{", "inbound_sockets{", `node_namespaces{result="read"}`)
			return slices.DeleteFunc(got, func(l string) bool { return strings.Contains(l, "state=") && !strings.Contains(l, `"established"`) })
		}
		// A scrape has no sockets of a namespace if the kernel interrupts its dump.
		nstest.Eventually(t, "a scrape of all namespaces", func() bool { return slices.Contains(established(), all) })
		if diff := cmp.Diff(lines, established()); diff != "" {
			t.Errorf("(-dump +scrape):\n%s", diff)
		}
		if len(want) < 100 {
			t.Errorf("%d series", len(want))
		}
	})
}

// A namespace that ends before it is entered has no series. One that ends while it is read has
// those of its last sockets. Scrapes keep no namespace.
func TestPrivilegedNodeEnds(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var found Found
		c, err := New(Config{Node: &NodeConfig{Find: func() (Found, error) { return found, nil }}})
		if err != nil {
			t.Fatal(err)
		}
		ns, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		// The kernel removes the link with the namespace.
		nstest.Command(t, "ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
		nstest.Command(t, "ip", "link", "set", "there", "netns", ns.Path())
		linked := func() bool {
			_, err := net.InterfaceByName("here")
			return err == nil
		}
		ends := podNamespace(t, ns, "prod", "web-0")
		closed := false
		enter := ends.Do
		ends.Do = func(open func() error) error {
			if closed {
				return fmt.Errorf("namespace has ended: %w", os.ErrNotExist)
			}
			return enter(func() error {
				closed = true
				return errors.Join(ns.Close(), open())
			})
		}
		found.Pods = []hangup.Namespace{ends}
		if got := linesOf(scrape(t, c), "destinations_folded{"); len(got) != 1 {
			t.Errorf("namespace that ends during its dump: %q", got)
		}
		nstest.Eventually(t, "the namespace is gone although scrapes go on", func() bool {
			got := linesOf(scrape(t, c), "destinations_folded{", `node_namespaces{result="ended"`)
			if !slices.Equal(got, []string{`node_namespaces{result="ended"} 1`}) {
				t.Errorf("after its end: %q", got)
			}
			return !linked()
		})
	})
}
