package sockdiag

import (
	"context"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// Two sockets have the same addresses and ports, and one is bound to a device. A lookup
// returns the one with the flow's cookie.
func TestPrivilegedLookupSameAddresses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const local, remote = "10.98.0.1", "10.98.0.2"
		for _, name := range []string{"one", "two"} {
			peer := nstest.NewNamespace(t, name)
			for _, command := range [][]string{
				{"ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", name},
				{"ip", "-n", name, "addr", "add", remote + "/24", "dev", name},
				{"ip", "-n", name, "link", "set", name, "up"},
				{"ip", "addr", "add", local + "/24", "dev", name},
				{"ip", "link", "set", name, "up"},
			} {
				nstest.Command(t, command...)
			}
			peer.Do(func() {
				listener, err := net.Listen("tcp4", remote+":7000")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = listener.Close() })
			})
		}
		nstest.Command(t, "ip", "route", "replace", remote, "dev", "two", "src", local)
		dial := func(device string) {
			dialer := net.Dialer{
				LocalAddr: &net.TCPAddr{IP: net.ParseIP(local), Port: 45001},
				Control: func(_, _ string, c syscall.RawConn) error {
					var err error
					if controlErr := c.Control(func(fd uintptr) {
						if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil && device != "" {
							err = unix.BindToDevice(int(fd), device)
						}
					}); controlErr != nil {
						return controlErr
					}
					return err
				},
			}
			ctx, cancel := context.WithTimeout(t.Context(), nstest.HangGuard)
			defer cancel()
			conn, err := dialer.DialContext(ctx, "tcp4", remote+":7000")
			if err != nil {
				t.Fatalf("dial by device %q: %v", device, err)
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
		dial("one")
		dial("")

		conn, err := Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var flows []Flow
		for f, err := range conn.Flows(t.Context(), Query{States: States(Established), Info: true}) {
			if err != nil {
				t.Fatal(err)
			}
			flows = append(flows, f)
		}
		if len(flows) != 2 || flows[0].Local != flows[1].Local || flows[0].Remote != flows[1].Remote {
			t.Fatalf("flows: %+v", flows)
		}
		for _, want := range flows {
			got, err := conn.Lookup(t.Context(), &want)
			if err != nil || got.Cookie != want.Cookie {
				t.Errorf("looked up %+v: got %+v, %v", want, got, err)
			}
		}
	})
}
