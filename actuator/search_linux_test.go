package actuator

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// When the time for other processes is over, those with the user or the cgroup of a holder
// are searched in full.
func TestPrivilegedRelatedHolders(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		proc, err := openProc()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(proc)
		runtime.GOMAXPROCS(1) // one worker: the owner is found before the child is visited
		for _, tt := range []struct {
			name, fork string
			ignores    bool // the owner
			shared     bool // cgroup
			near       bool // the child
			found      bool
		}{
			{name: "same user", fork: "fork default", found: true},
			{name: "same user, ignores SIGPIPE", fork: "fork ignore", found: true},
			{name: "same cgroup", fork: "fork default 65534", shared: true, found: true},
			{name: "another user", fork: "fork default 65534"},
			{name: "another user, both ignore SIGPIPE", ignores: true, fork: "fork ignore 65534"},
			{name: "another user of a flow", fork: "fork default 65534", near: true, found: true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
				app := testapp.Start(t, binary)
				if tt.shared {
					moveToCgroup(t, app)
				}
				if tt.ignores {
					app.Call("ignore")
				}
				app.Connect(server.Addr(), false, false)
				child := startHolder(t, app, tt.fork)
				if strings.HasSuffix(tt.fork, " 65534") {
					nstest.Eventually(t, "the child has another user", func() bool {
						uid, ok := userOf(proc, child)
						return ok && uid == nobody
					})
				}
				uid, _ := userOf(proc, child)
				inode := flowTo(t, server.Addr()).Inode
				s := newSearch(proc, []uint32{inode})
				s.begin.Do(func() { s.began = time.Now().Add(-time.Hour) })
				owner := nearby(app.PID())[0]
				s.run(t.Context(), []candidate{owner, {pid: child, uid: uid, near: tt.near}})
				found, err := s.result()
				if err != nil {
					t.Fatal(err)
				}
				want, unsearched := 1, 1
				if tt.found {
					want, unsearched = 2, 0
				}
				if got := distinctProcesses(found.byInode[inode]); len(got) != want || found.unsearched != unsearched {
					t.Errorf("holders are %+v, %d processes unsearched; want %d and %d", got, found.unsearched, want, unsearched)
				}
			})
		}
	})
}

// moveToCgroup moves an application to a cgroup of its own, until the end of the test.
func moveToCgroup(t *testing.T, app *testapp.App) (group string) {
	t.Helper()
	group = filepath.Join(cgroupMount(), fmt.Sprintf("tcphup-test-%d-%d", ownNumber(t), app.PID()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	procs := filepath.Join(group, "cgroup.procs")
	t.Cleanup(func() {
		app.Kill()
		nstest.Eventually(t, "the cgroup is empty", func() bool {
			pids, _ := os.ReadFile(procs)
			for line := range bytes.Lines(pids) {
				_ = unix.Kill(atoi(bytes.TrimSpace(line)), unix.SIGKILL)
			}
			return os.Remove(group) == nil
		})
	})
	if err := os.WriteFile(procs, []byte(strconv.Itoa(app.PID())), 0o644); err != nil {
		t.Fatal(err)
	}
	return group
}

// Without an owner for each socket the time is longer.
func TestTimeOver(t *testing.T) {
	for _, tt := range []struct {
		elapsed       time.Duration
		missing, over bool
	}{
		{elapsed: 0},
		{elapsed: (othersLimit + missingLimit) / 2, over: true},
		{elapsed: 0, missing: true},
		{elapsed: (othersLimit + missingLimit) / 2, missing: true},
		{elapsed: 2 * missingLimit, missing: true, over: true},
	} {
		var inodes []uint32
		if tt.missing {
			inodes = append(inodes, 1)
		}
		s := newSearch(-1, inodes)
		s.begin.Do(func() { s.began = time.Now().Add(-tt.elapsed) })
		if got := s.timeOver(); got != tt.over {
			t.Errorf("after %v, missing %t: got %t", tt.elapsed, tt.missing, got)
		}
	}
}

// The scan of a process that is not near ends when the time is over.
func TestSearchEndsWithinProcess(t *testing.T) {
	proc, err := openProc()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	s := newSearch(proc, nil)
	s.begin.Do(func() { s.began = time.Now().Add(-time.Hour) })
	w := worker{search: s}
	if n, err := w.descriptors(t.Context(), candidate{pid: os.Getpid()}, 0); n != 0 || !errors.Is(err, errTimeOver) {
		t.Errorf("got %d descriptors, %v", n, err)
	}
	if w.process(t.Context(), candidate{pid: os.Getpid()}); len(s.unsearched) != 1 || s.processes != 0 {
		t.Errorf("%d processes unsearched, %d searched", len(s.unsearched), s.processes)
	}
	if n, err := w.descriptors(t.Context(), nearby(os.Getpid())[0], 0); n == 0 || err != nil {
		t.Errorf("near: got %d descriptors, %v", n, err)
	}
}

// A lack of descriptors in tcphup is an error, never a property of a process.
func TestPrivilegedExhausted(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		proc, err := openProc()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(proc)
		pid := os.Getpid()
		x := &action{Actuator: New(Config{}), processes: processCache{pid: {read: time.Now().Add(time.Hour)}, nobodyPID: {read: time.Now().Add(time.Hour)}}}
		lost := &target{holders: []holder{{pid: nobodyPID, fd: 0}, {pid: pid, fd: 0}}}
		var stat, command, sigpipe, cgroup, acquire, fresh error
		var reason hangup.Reason
		lift := nstest.LimitDescriptors(t, pid, 0)
		_, stat = (&worker{search: newSearch(proc, nil)}).firstThreadEnded(pid)
		_, command = readCommand(pid)
		_, sigpipe = sigpipeKills(pid)
		_, cgroup = cgroupOf(pid)
		_, reason, acquire = x.acquire(lost)
		fresh = new(processCache).get(pid).err
		lift()
		for name, err := range map[string]error{"stat": stat, "command": command, "SIGPIPE": sigpipe, "cgroup": cgroup, "acquire": acquire, "process": fresh} {
			if !errors.Is(err, unix.EMFILE) || !hangup.IsExhausted(err) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if reason != "" {
			t.Errorf("acquire: reason %s", reason)
		}
		lost.fail(hangup.None, acquire)
		if !strings.Contains(lost.Detail, "LimitNOFILE") {
			t.Errorf("detail is %q", lost.Detail)
		}
	})
}

// nobodyPID is above the maximum of kernel.pid_max.
const nobodyPID = 1 << 23

// The scan of a process ends when it has every socket of the search, and not before.
func TestSearchEndsWithLastSocket(t *testing.T) {
	proc, err := openProc()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	var inodes []uint32
	for range 10 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			t.Fatal(err)
		}
		inodes = append(inodes, parseSocketLink([]byte(link)))
		if len(inodes) == 1 { // a second descriptor of the first socket, before the others
			again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(again)
		}
	}
	const unowned = 4294967295
	scan := func(wanted ...uint32) int {
		t.Helper()
		s := newSearch(proc, wanted)
		w := worker{search: s}
		n, err := w.descriptors(t.Context(), nearby(os.Getpid())[0], 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, inode := range wanted {
			if len(s.holders[inode]) == 0 != (inode == unowned) {
				t.Errorf("wanted %v: holders of %d are %+v", wanted, inode, s.holders[inode])
			}
		}
		return n
	}
	all, first, both := scan(inodes[0], unowned), scan(inodes[0]), scan(inodes[0], inodes[5])
	if first >= both || both >= all {
		t.Errorf("%d descriptors for one socket, %d for two, %d in total", first, both, all)
	}
}
