package actuator

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// The advice names only missing rights, and root with all capabilities gets none.
func TestAccessAdvice(t *testing.T) {
	both := []string{sysPtrace, "CAP_DAC_READ_SEARCH"}
	for _, tt := range []struct {
		name   string
		access access
		says   []string
		not    []string
	}{
		{"root", access{root: true}, []string{"no process holds", "in flight", "io_uring"}, []string{"CAP_", "root", "namespace"}},
		{"root in a container", access{root: true, container: true}, []string{"this pid namespace", "shareProcessNamespace"}, []string{"CAP_", "root"}},
		{"root, and access is denied", access{root: true, processes: 9, unreadable: 4}, []string{"no visible process", "4 of 9", "security module"}, []string{"CAP_", "root"}},
		{"root without capabilities", access{root: true, unreadable: 4, missing: both[1:]}, []string{"grant CAP_DAC_READ_SEARCH"}, []string{"sudo", "CAP_SYS_PTRACE"}},
		{"user", access{unreadable: 4, missing: both}, []string{"sudo", "grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"}, []string{"namespace"}},
		{"user whose processes are all readable", access{missing: both}, []string{"no process holds"}, []string{"CAP_", "root"}},
		{"user in a container", access{unreadable: 4, missing: both, container: true}, []string{"uid and gid", "shareProcessNamespace"}, []string{"sudo"}},
		{"processes are hidden", access{hidden: true, missing: both}, []string{"no visible process", "sudo"}, []string{"in flight"}},
		{"not dumpable", access{unreadable: 4, missing: both, notDumpable: "process 5 (a)"}, []string{"process 5 (a) is not dumpable", "CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE", "sudo"}, nil},
		{"not dumpable, in a container", access{unreadable: 4, missing: both, notDumpable: "process 5 (a)", container: true}, []string{"is not dumpable"}, []string{"sudo", "uid and gid"}},
	} {
		got := tt.access.noHolder()
		for _, text := range tt.says {
			if !strings.Contains(got, text) {
				t.Errorf("%s: %q does not contain %q", tt.name, got, text)
			}
		}
		for _, text := range tt.not {
			if strings.Contains(got, text) {
				t.Errorf("%s: %q contains %q", tt.name, got, text)
			}
		}
	}
	for _, tt := range []struct {
		access    access
		sudo, cap bool
	}{
		{access{root: true}, false, false},
		{access{root: true, missing: both}, false, true},
		{access{missing: both}, true, true},
		{access{missing: both[1:]}, false, false},
		{access{missing: both, container: true}, false, true},
	} {
		got := tt.access.howToAttach()
		if strings.Contains(got, "sudo") != tt.sudo || strings.Contains(got, "CAP_") != tt.cap || !strings.Contains(got, "seccomp profile") {
			t.Errorf("%+v: %q", tt.access, got)
		}
	}
}

// A socket in flight between processes is destroyed, and root is not told to grant rights.
func TestPrivilegedSocketInFlight(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noLeaks(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		conn, err := net.Dial("tcp", server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		withFD(t, conn.(*net.TCPConn), func(fd int) { err = unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0) })
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		for _, tt := range []struct {
			method  hangup.Method
			outcome hangup.Outcome
		}{{hangup.Shutdown, hangup.Refused}, {hangup.Auto, hangup.Closed}} {
			r := only(t, mustHangUp(t, New(Config{}), hangup.Request{Selector: to(server.Addr()), Method: tt.method}))
			if r.Outcome != tt.outcome || !strings.Contains(r.Detail, "in flight") || strings.Contains(r.Detail, "CAP_") {
				t.Errorf("%s: outcome is %s (%s), want %s", tt.method, r.Outcome, r.Detail, tt.outcome)
			}
		}
	})
}

// Only unreadable processes of the socket's uid are reported as not dumpable.
func TestPrivilegedNotDumpable(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		const uid = 12345
		dumpable, undumpable := testapp.StartAs(t, binary, uid), testapp.StartAs(t, binary, uid)
		dumpable.Call("ignore")
		if got := undumpable.Call("undumpable"); got != "undumpable ok" {
			t.Fatalf("application: %s", got)
		}
		proc, err := openProc()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(proc)
		for pid, want := range map[int]bool{dumpable.PID(): false, undumpable.PID(): true} {
			if got, ok := notDumpable(proc, pid); got != uid || ok != want {
				t.Errorf("process %d: uid %d, not dumpable is %t, want %d and %t", pid, got, ok, uid, want)
			}
		}
		if _, ok := notDumpable(proc, os.Getpid()); ok {
			t.Error("the test itself is not dumpable")
		}
	})
}
