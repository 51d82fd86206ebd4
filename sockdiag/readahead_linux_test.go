package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// large makes the next dump of c read the families in parallel, as after a large dump.
func large(c *Conn) *Conn {
	c.dumped, c.profile = manyFlows+1, profile{ipv4: 1, ipv6: 1}
	return c
}

// largeWith makes the next dump of c read lower and higher ports in parallel, as after a large
// dump of one family with these ports.
func largeWith(c *Conn, local, remote []uint16) *Conn {
	c.dumped, c.profile = manyFlows+1, profile{ipv4: len(local) + len(remote)}
	for side, ports := range map[*[1 << 16 / portGroup]int][]uint16{&c.profile.local: local, &c.profile.remote: remote} {
		for _, port := range ports {
			side[port/portGroup]++
		}
	}
	return c
}

// The next dump must not return the rest of an abandoned dump.
func TestPrivilegedAbandonedDump(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for range 250 {
			pair(t, "127.0.0.1:0", "127.0.0.1", false)
			pair(t, "[::]:0", "127.0.0.1", false) // the accepted socket is IPv6
		}
		for _, ahead := range []bool{false, true} {
			t.Run(fmt.Sprintf("ahead=%t", ahead), func(t *testing.T) {
				q := Query{States: Open, Info: true, Ahead: ahead}
				c := mustDial(t)
				for range 3 {
					for _, err := range large(c).Flows(t.Context(), q) {
						if err != nil {
							t.Fatal(err)
						}
						break
					}
				}
				if n := len(collect(t, large(c), q)); n != 1000 {
					t.Errorf("dump after abandoned dumps: %d flows, want 1000", n)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var got error
				for _, err := range large(c).Flows(ctx, q) {
					cancel()
					got = err
				}
				if !errors.Is(got, context.Canceled) {
					t.Errorf("cancelled dump: error %v, want %v", got, context.Canceled)
				}
				if n := len(collect(t, large(c), q)); n != 1000 {
					t.Errorf("dump after a cancelled dump: %d flows, want 1000", n)
				}
			})
		}
	})
}

// Close closes the connections that Query.Ahead opened.
func TestPrivilegedClose(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		open := func() int {
			entries, err := os.ReadDir("/proc/self/fd")
			if err != nil {
				t.Fatal(err)
			}
			return len(entries)
		}
		before := open()
		for range 3 {
			c, err := Dial()
			if err != nil {
				t.Fatal(err)
			}
			collect(t, large(c), Query{States: Open, Ahead: true})
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if after := open(); after != before {
			t.Errorf("%d open descriptors, want %d", after, before)
		}
	})
}

// A redial after an abandoned dump uses the caller's namespace, not the namespace of a
// reader's thread.
func TestPrivilegedReadAheadNamespace(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		runtime.LockOSThread() // without unlock: the thread exits with the test
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		nstest.Command(t, "ip", "link", "set", "lo", "up")
		for range 300 {
			pair(t, "[::]:0", "127.0.0.1", false)
		}
		c := mustDial(t)
		query := Query{States: Open, Info: true, Ahead: true}
		for range 3 {
			for _, err := range large(c).Flows(t.Context(), query) {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if n := len(collect(t, large(c), query)); n != 600 {
				t.Errorf("dump after an abandoned dump: %d flows, want 600", n)
			}
		}
	})
}

// After the first dump, allocations do not depend on the number of flows.
func TestPrivilegedReadAheadAllocations(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		c := mustDial(t)
		allocated := func() (flows int, bytes uint64) {
			read := func() {
				flows = 0
				for _, err := range large(c).Flows(t.Context(), Query{States: Open, Info: true, Ahead: true}) {
					if err != nil {
						t.Fatal(err)
					}
					flows++
				}
			}
			read()
			// Other goroutines allocate too. The minimum of several dumps excludes them.
			bytes = math.MaxUint64
			for range 10 {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				read()
				runtime.ReadMemStats(&after)
				bytes = min(bytes, after.TotalAlloc-before.TotalAlloc)
			}
			return flows, bytes
		}
		few, short := allocated()
		for range 1000 {
			pair(t, "[::]:0", "127.0.0.1", false)
		}
		many, long := allocated()
		if few != 0 || many != 2000 {
			t.Fatalf("%d flows, then %d, want 0 and 2000", few, many)
		}
		if long > short+1024 {
			t.Errorf("%d bytes allocated for %d flows, %d for none", long, many, short)
		}
	})
}
