package actuator

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// With method auto, a socket whose holders SIGPIPE would kill is destroyed, unless such a
// holder runs the executable of another holder.
func TestPrivilegedPrefork(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		for _, tt := range []struct {
			name     string
			ignores  bool // the process that opens the connection
			commands []string
			safe     []string
			method   hangup.Method // None: refused
			says     string
		}{
			{name: "workers", commands: []string{"fork", "fork"}, says: "add --sigpipe-safe=app "},
			{name: "parent ignores it", ignores: true, commands: []string{"fork default"}, says: "add --sigpipe-safe=app "},
			{name: "child ignores it", commands: []string{"fork ignore"}, says: "add --sigpipe-safe=app "},
			{name: "all ignore it", ignores: true, commands: []string{"fork"}, method: hangup.Shutdown},
			{name: "leaked", ignores: true, commands: []string{"spawn sleep 1000"}, method: hangup.Destroy, says: "(sleep)"},
			{name: "leaked into two programs", commands: []string{"spawn sleep 1000", "spawn tail -f"}, method: hangup.Destroy, says: "(tail)"},
			{name: "leaked into one program twice", ignores: true, commands: []string{"spawn sleep 1000", "spawn sleep 1001"}, says: "add --sigpipe-safe=sleep "},
			{name: "safe", commands: []string{"fork"}, safe: []string{"psql", "app"}, method: hangup.Shutdown},
			{name: "another name is safe", commands: []string{"fork"}, safe: []string{"ap", "app2"}, says: "add --sigpipe-safe=app "},
			{name: "leaked and safe", ignores: true, commands: []string{"spawn sleep 1000"}, safe: []string{"sleep"}, method: hangup.Shutdown},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
				app := testapp.Start(t, binary)
				if tt.ignores {
					app.Call("ignore")
				}
				fd := app.Connect(server.Addr(), false, false)
				pids := []int{app.PID()}
				for _, c := range tt.commands {
					pids = append(pids, startHolder(t, app, c))
				}
				r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), SIGPIPESafe: tt.safe}))
				if !strings.Contains(r.Detail, tt.says) {
					t.Errorf("detail is %q, want one with %q", r.Detail, tt.says)
				}
				if tt.method != "" {
					expect(t, r, hangup.Closed, "", tt.method)
					return
				}
				expect(t, r, hangup.Refused, hangup.ReasonSIGPIPE, hangup.None)
				if last := fmt.Sprintf("process %d (", pids[len(pids)-1]); tt.name != "child ignores it" && !strings.Contains(r.Detail, last) {
					t.Errorf("detail is %q, want one with %q", r.Detail, last)
				}
				if got := app.Call("write %d", fd); got != "write ok 1" {
					t.Errorf("application: %q", got)
				}
			})
		}
	})
}

// startHolder starts a process that inherits the descriptors of the application, by one of
// its commands fork and spawn.
func startHolder(t *testing.T, app *testapp.App, command string) int {
	t.Helper()
	verb, rest, _ := strings.Cut(command, " ")
	program, _, _ := strings.Cut(rest, " ")
	answer := app.Call("%s", command)
	var pid int
	if _, err := fmt.Sscanf(answer, verb+" ok %d", &pid); err != nil {
		t.Fatalf("application: %s: %v", answer, err)
	}
	if verb == "spawn" {
		nstest.Eventually(t, "the child has become "+program, func() bool { return commandOf(pid) == program })
	}
	return pid
}

// The scan finds a parent that ignores SIGPIPE after a child that SIGPIPE kills, with and
// without a first thread.
func TestPrivilegedPreforkParentLast(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, testapp.Build(t))
		app.Call("ignore")
		app.Connect(server.Addr(), false, false)
		child := startHolder(t, app, "fork default")
		proc, err := openProc()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(proc)
		runtime.GOMAXPROCS(1) // one worker: the order is exact
		inode := flowTo(t, server.Addr()).Inode
		check := func(state string) {
			found, err := scanProcesses(t.Context(), proc, nearby(child, app.PID()), []uint32{inode}, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := distinctProcesses(found.byInode[inode]); len(got) != 2 {
				t.Errorf("%s: holders are %+v, want processes %d and %d", state, got, child, app.PID())
			}
		}
		check("all threads")
		app.Call("rename parent")
		endFirstThread(t, app)
		check("first thread ended")
	})
}

// endFirstThread ends the first thread of the application; another one continues.
func endFirstThread(t *testing.T, app *testapp.App) {
	t.Helper()
	if got := app.Call("thread"); got != "thread ok" {
		t.Fatalf("application: %s", got)
	}
	nstest.Eventually(t, "the first thread has ended", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", app.PID()))
		return err == nil && strings.Contains(string(status), "\nState:\tZ")
	})
}

// methodAfterFirstThread returns the method for a socket whose holder's first thread has ended, and
// a part of the detail: Linux 6.9 has PIDFD_THREAD.
func methodAfterFirstThread() (method hangup.Method, says string) {
	pidfd, err := unix.PidfdOpen(unix.Gettid(), pidfdThread)
	if err != nil {
		return hangup.Destroy, "Linux 6.9"
	}
	_ = unix.Close(pidfd)
	return hangup.Shutdown, ""
}

// The holder is found and checked after the end of its first thread.
func TestPrivilegedFirstThreadEnded(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		binary := testapp.Build(t)
		usual, says := methodAfterFirstThread()
		for _, tt := range []struct {
			name         string
			ignores, old bool
			children     []string
			safe         []string
			method       hangup.Method // None: refused
			says         string
		}{
			{name: "ignores SIGPIPE", ignores: true, method: usual, says: says},
			{name: "before Linux 6.9", ignores: true, old: true, method: hangup.Destroy, says: "Linux 6.9"},
			{name: "SIGPIPE kills it", method: hangup.Destroy, says: "SIGPIPE"},
			{name: "safe", safe: []string{"app"}, method: usual, says: says},
			{name: "its child ignores SIGPIPE", children: []string{"fork ignore"}, says: "SIGPIPE"},
			{name: "SIGPIPE kills its child", ignores: true, children: []string{"fork default"}, says: "SIGPIPE"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
				app := testapp.Start(t, binary)
				if tt.ignores {
					app.Call("ignore")
				}
				fd := app.Connect(server.Addr(), false, false)
				for _, c := range tt.children {
					startHolder(t, app, c)
				}
				endFirstThread(t, app)
				if tt.old {
					rejectPIDFDThread(t)
				}
				r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), SIGPIPESafe: tt.safe}))
				if r.PID != app.PID() || !strings.Contains(r.Detail, tt.says) || strings.Contains(r.Detail, "CAP_") {
					t.Errorf("process is %d, detail is %q, want process %d and %q", r.PID, r.Detail, app.PID(), tt.says)
				}
				if tt.method == "" {
					expect(t, r, hangup.Refused, hangup.ReasonSIGPIPE, hangup.None)
					if got := app.Call("write %d", fd); got != "write ok 1" {
						t.Errorf("application: %q", got)
					}
				} else {
					expect(t, r, hangup.Closed, "", tt.method)
					want := map[hangup.Method]string{hangup.Shutdown: "recv ok 0", hangup.Destroy: "recv ECONNABORTED -1"}[tt.method]
					if got := app.Call("recv %d", fd); got != want {
						t.Errorf("application: %q, want %q", got, want)
					}
				}
			})
		}
	})
}

// rejectPIDFDThread makes pidfd_open(2) fail as before Linux 6.9, on the thread of the
// calling goroutine. The thread ends with the goroutine.
func rejectPIDFDThread(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	const number, flags = 0, 24 // offsets in struct seccomp_data; flags is the low half of args[1]
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_PIDFD_OPEN, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: pidfdThread, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		t.Fatal(err)
	}
}

// Executables are compared by file, else by path, else by command name.
func TestExecutableSame(t *testing.T) {
	file, other := executable{1, 2, "/bin/a", "x"}, executable{1, 3, "/bin/a", "x"}
	path, name := executable{0, 0, "/bin/a", "y"}, executable{0, 0, "", "x"}
	for _, tt := range []struct {
		name string
		a, b executable
		want bool
	}{
		{"the same file under another name", file, executable{1, 2, "/bin/b", "y"}, true},
		{"another file under the same name", file, other, false},
		{"a file of another device", file, executable{2, 2, "/bin/a", "x"}, false},
		{"the same path", file, path, true},
		{"another path", path, executable{0, 0, "/bin/b", "y"}, false},
		{"the same command", file, name, true},
		{"another command", path, name, false},
	} {
		if tt.a.same(tt.b) != tt.want || tt.b.same(tt.a) != tt.want {
			t.Errorf("%s: want %t", tt.name, tt.want)
		}
	}
}

// A file is identified through another name, and after its deletion.
func TestExecutableOf(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	one, two, other := filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "other")
	for _, name := range []string{one, other} {
		if err := os.WriteFile(name, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(one, two); err != nil {
		t.Fatal(err)
	}
	start := func(name string) executable {
		cmd := exec.CommandContext(t.Context(), name, "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		h := holder{pid: cmd.Process.Pid}
		nstest.Eventually(t, name+" runs", func() bool { return executableOf(h).path == name })
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		return executableOf(h)
	}
	a, b, c := start(one), start(two), start(other)
	if a.inode == 0 || !a.same(b) || a.same(c) {
		t.Errorf("got %+v, %+v and %+v: want the first two to be the same", a, b, c)
	}
}
