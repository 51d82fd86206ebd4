package actuator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// findOwners finds a holder of each socket, and all holders that SIGPIPE would kill.
func TestPrivilegedOwners(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		binary := testapp.Build(t)
		ignores, dies := testapp.Start(t, binary), testapp.Start(t, binary)
		ignores.Call("ignore")
		ignores.Connect(server.Addr(), false, false)
		dies.Connect(server.Addr(), false, false)
		forked := dies.Call("fork")

		byPID := make(map[int]uint32)
		for pid, app := range map[int]*testapp.App{ignores.PID(): ignores, dies.PID(): dies} {
			links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", app.PID()))
			if err != nil {
				t.Fatal(err)
			}
			for _, link := range links {
				to, err := os.Readlink(link)
				if err != nil {
					t.Fatal(err)
				}
				if inode := parseSocketLink([]byte(to)); inode != 0 {
					byPID[pid] = inode
				}
			}
		}
		const unowned = 4294967295
		for round := range 50 {
			flows := []sockdiag.Flow{{Inode: byPID[ignores.PID()]}, {Inode: byPID[dies.PID()]}}
			if round%2 == 1 {
				flows = append(flows, sockdiag.Flow{Inode: unowned})
			}
			found, err := findOwners(t.Context(), flows, nearLimit, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := found.byInode[byPID[ignores.PID()]]; len(got) != 1 || got[0].pid != ignores.PID() {
				t.Errorf("holders of the first socket: %+v", got)
			}
			// The second holder is found as well: SIGPIPE would kill it.
			if got := found.byInode[byPID[dies.PID()]]; len(got) != 2 {
				t.Fatalf("round %d: holders of the second socket: %+v, and %s", round, got, forked)
			}
			if len(found.byInode) != 2 {
				t.Errorf("holders of other sockets: %+v", found.byInode)
			}
		}
	})
}

// A process that SIGPIPE kills and that inherits the socket during an action is found.
func TestPrivilegedLateHolder(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		app.Connect(server.Addr(), false, false)
		app.Connect(server.Addr(), false, false)
		a := New(Config{})
		a.destroy = func(context.Context, *sockdiag.Conn, *sockdiag.Flow) error { return errors.ErrUnsupported }
		acted := 0
		beforeTurn(a, func(*sockdiag.Flow) {
			if acted++; acted == 2 {
				// The rate leaves time for the fork.
				if got := app.Call("fork default"); !strings.HasPrefix(got, "fork ok") {
					t.Errorf("application: %s", got)
				}
			}
		})
		report := mustHangUp(t, a, hangup.Request{Selector: to(server.Addr()), Rate: 1})
		reasons := map[hangup.Reason]int{}
		for _, r := range report.Results {
			reasons[r.Reason]++
		}
		if reasons[""] != 1 || reasons[hangup.ReasonSIGPIPE] != 1 {
			t.Errorf("reasons %v: %+v", reasons, report.Results)
		}
	})
}

// A flow is hung up even if its lookup takes longer than ownersFresh, as on a host with
// very many sockets.
func TestPrivilegedSlowLookup(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		app.Connect(server.Addr(), false, false)
		a := New(Config{})
		beforeTurn(a, func(*sockdiag.Flow) { time.Sleep(2 * ownersFresh) }) // slow lookup
		ctx, cancel := context.WithTimeout(t.Context(), nstest.HangGuard)
		defer cancel()
		report, err := a.HangUp(ctx, hangup.Request{Selector: to(server.Addr())})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, only(t, report), hangup.Closed, "", hangup.Shutdown)
	})
}

// A flow without an inode has no holder: descriptors of other files do not match it.
func TestOwnersIgnoreInodeZero(t *testing.T) {
	proc, err := openProc()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	found, err := scanProcesses(t.Context(), proc, nearby(os.Getpid()), []uint32{0}, false)
	if err != nil || len(found.byInode) != 0 {
		t.Errorf("got %+v, %v", found, err)
	}
}

func TestParseSocketLink(t *testing.T) {
	for link, want := range map[string]uint32{
		"socket:[1]":           1,
		"socket:[4294967295]":  4294967295,
		"socket:[4294967296]":  0,
		"socket:[]":            0,
		"socket:[12":           0,
		"socket:[1x]":          0,
		"pipe:[17]":            0,
		"/tmp/socket:[5]":      0,
		"anon_inode:[eventfd]": 0,
		"":                     0,
	} {
		if got := parseSocketLink([]byte(link)); got != want {
			t.Errorf("%q: got %d, want %d", link, got, want)
		}
	}
}

func TestParseSIGPIPE(t *testing.T) {
	for _, tt := range []struct {
		status string
		kills  bool
		fails  bool
	}{
		{status: "Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000000\n"},
		{status: "SigIgn:\t0000000000000000\nSigCgt:\t0000000000001000\n"},
		{status: "SigIgn:\t0000000000000800\nSigCgt:\t0000000000002000\n", kills: true},
		{status: "SigBlk:\t0000000000001000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n", kills: true},
		{status: "SigIgn:\t0000000000001000\n", fails: true},
		{status: "SigIgn:\tnonsense\nSigCgt:\t0\n", fails: true},
		{status: "", fails: true},
	} {
		kills, err := parseSIGPIPE([]byte(tt.status))
		if kills != tt.kills || (err != nil) != tt.fails {
			t.Errorf("%q: got %v, %v", tt.status, kills, err)
		}
	}
}
