package actuator

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// The pass over /proc: what it finds, and what it may not miss.
func TestPrivilegedOwners(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		binary := testapp.Build(t)
		ignores, dies := testapp.Start(t, binary), testapp.Start(t, binary)
		ignores.Ask("ignore")
		ignores.Connect(server.Addr(), false, false)
		dies.Connect(server.Addr(), false, false)
		forked := dies.Ask("fork")

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
		const nobodys = 4294967295
		for round := range 50 {
			inodes := []uint32{byPID[ignores.PID()], byPID[dies.PID()]}
			if round%2 == 1 {
				inodes = append(inodes, nobodys)
			}
			found, err := findOwners(t.Context(), inodes, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := found.byInode[byPID[ignores.PID()]]; len(got) != 1 || got[0].pid != ignores.PID() {
				t.Errorf("holders of the one: %+v", got)
			}
			// A holder that a SIGPIPE would kill is found though another one is known.
			if got := found.byInode[byPID[dies.PID()]]; len(got) != 2 {
				t.Fatalf("round %d: holders of the other: %+v, and %s", round, got, forked)
			}
			if len(found.byInode) != 2 {
				t.Errorf("holders of nothing: %+v", found.byInode)
			}
		}
	})
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
