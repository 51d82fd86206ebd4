package sockdiag

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"testing"
	"unsafe"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// One walk for both families, a dump of each family, and the same with Query.Ahead yield the
// same flows.
func TestPrivilegedBothFamilies(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NeedMPTCP(t)
		for range 50 {
			pair(t, "127.0.0.1:0", "127.0.0.1", false)
			pair(t, "[::1]:0", "[::1]", false)
			pair(t, "[::]:0", "127.0.0.1", false) // the accepted socket is IPv4-mapped
			pair(t, "127.0.0.1:0", "127.0.0.1", true)
			client, server := pair(t, "[::1]:0", "[::1]", false)
			if err := errors.Join(client.Close(), server.Close()); err != nil {
				t.Fatal(err)
			}
		}
		first, _ := pair(t, "127.0.0.1:0", "127.0.0.1", false)
		mapped := localOf(first)
		type socket struct {
			family        Family
			state         State
			local, remote string
			cookie        uint64
			inode         uint32
			subflow, info bool
		}
		dump := func(c *Conn, q Query) (sockets []socket) {
			for _, f := range collect(t, c, q) {
				sockets = append(sockets, socket{f.Family, f.State, f.Local.String(), f.Remote.String(), f.Cookie, f.Inode, f.IsSubflow, f.HasInfo})
			}
			slices.SortFunc(sockets, func(a, b socket) int { return cmp.Or(cmp.Compare(a.cookie, b.cookie), cmp.Compare(a.local, b.local)) })
			return sockets
		}
		together, separate, ahead := mustDial(t), mustDial(t), mustDial(t)
		separate.separate = true
		for name, q := range map[string]Query{
			"every state":       {States: ^StateSet(0), Info: true},
			"without tcp_info":  {States: Open},
			"listeners":         {States: States(Listen)},
			"selected":          {States: Open, Info: true, Selector: selectorFor(mapped)},
			"selected by port":  {States: Open, Selector: &Selector{Destinations: Everywhere(), Ports: Ports(mapped.Port())}},
			"nothing is listed": {States: States(SynSent)},
		} {
			want := dump(separate, q)
			if len(want) == 0 != (name == "nothing is listed") {
				t.Fatalf("%s: %d flows", name, len(want))
			}
			if diff := gocmp.Diff(want, dump(together, q), gocmp.AllowUnexported(socket{})); diff != "" {
				t.Errorf("%s: one walk (-want +got):\n%s", name, diff)
			}
			q.Ahead = true
			for side, conn := range map[string]*Conn{
				"local":     largeWith(ahead, []uint16{1, mapped.Port()}, nil),
				"remote":    largeWith(mustDial(t), nil, []uint16{mapped.Port(), math.MaxUint16}),
				"one group": largeWith(mustDial(t), []uint16{mapped.Port()}, []uint16{mapped.Port()}),
			} {
				if diff := gocmp.Diff(want, dump(conn, q), gocmp.AllowUnexported(socket{})); diff != "" {
					t.Errorf("%s: in parallel by %s port (-want +got):\n%s", name, side, diff)
				}
				if conn.dumped != len(want) {
					t.Errorf("%s: in parallel by %s port: the kernel dumped %d flows, want %d", name, side, conn.dumped, len(want))
				}
			}
			if diff := gocmp.Diff(want, dump(large(ahead), q), gocmp.AllowUnexported(socket{})); diff != "" {
				t.Errorf("%s: in parallel (-want +got):\n%s", name, diff)
			}
		}
		if together.separate {
			t.Error("the kernel has no dump of both families")
		}
		dump(large(ahead), Query{States: Open, Ahead: true})
		if n := len(dump(separate, Query{States: Open})); ahead.dumped != n {
			t.Errorf("%d flows are counted, want %d: the next dump decides by them", ahead.dumped, n)
		}
	})
}

// A kernel without a dump of both families is asked for each of them.
func TestPrivilegedNoDumpOfBoth(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		pair(t, "[::]:0", "127.0.0.1", false)
		for _, errno := range []unix.Errno{unix.EOPNOTSUPP, unix.EINVAL} {
			c := mustDial(t)
			kernel, refused := c.receive, false
			c.receive = func(b []byte) (int, error) {
				n, err := kernel(b)
				if refused || err != nil {
					return n, err
				}
				refused = true
				return 0, errno
			}
			for range 2 {
				if n := len(collect(t, c, Query{States: Open})); n != 2 {
					t.Errorf("%v: %d flows, want 2", errno, n)
				}
			}
			if !c.separate {
				t.Errorf("%v: the dump of both families is repeated", errno)
			}
		}
	})
}

func TestRequestOfBothFamilies(t *testing.T) {
	b := request{family: bothFamilies, info: true, states: Open}.bytes()
	want := inetDiagReq{Ext: extInfo, ID: inetDiagSockID{Cookie: [2]uint32{1<<32 - 1, 1<<32 - 1}}, States: uint32(Open)}
	if got := view[inetDiagReq](b); got != want || len(b) != int(unsafe.Sizeof(want)) {
		t.Errorf("got %+v in %d bytes, want %+v in %d", got, len(b), want, unsafe.Sizeof(want))
	}
}
