package e2e

import (
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedNetnsRights checks the messages without the capabilities.
func TestPrivilegedNetnsRights(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		web, db := nstest.NewNamespace(t, "web"), nstest.NewNamespace(t, "db")
		p := startNetnsPod(t, web, binary, "web", 1)
		startNetnsPod(t, db, binary, "db", 1)
		own := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		testapp.Start(t, binary).Connect(own.Addr(), false, false)
		pid := strconv.Itoa(p.app.PID())
		for _, tt := range []struct {
			name string
			caps []uintptr
			args []string
			exit int
			says []string
		}{
			{"list all", []uintptr{unix.CAP_SYS_PTRACE}, []string{"list", "--netns=all"}, 1,
				[]string{"1 connection, 1 destination", "; 2 of 3 network namespaces not read", "operation not permitted", "CAP_SYS_ADMIN"}},
			{"hang up all", []uintptr{unix.CAP_SYS_PTRACE}, []string{"--netns=all", "127.0.0.1", "4001"}, 1,
				[]string{"no connection matches; 2 of 3 network namespaces not read", "CAP_SYS_ADMIN"}},
			{"by name", []uintptr{unix.CAP_SYS_PTRACE}, []string{"--netns=web", "127.0.0.1", "4001"}, 1, []string{"1 of 1 network namespace not read, web", "CAP_SYS_ADMIN"}},
			{"self-test", []uintptr{unix.CAP_SYS_PTRACE}, []string{"probe", "--netns=web"}, 1, []string{"1 of 1 network namespace not read, web", "CAP_SYS_ADMIN"}},
			{"by process", nil, []string{"--netns=" + pid, "127.0.0.1", "4001"}, 1, []string{"process " + pid, "permission denied", "CAP_SYS_PTRACE"}},
			{"list without a right", nil, []string{"list", "--netns=all"}, 1, []string{"2 of 3 network namespaces not read", "CAP_SYS_ADMIN", "network namespaces of 4 processes unknown: permission denied"}},
			{"no match without a right", nil, []string{"list", "127.0.0.9"}, 0, []string{"no connection matches", "network namespaces of 4 processes unknown: permission denied"}},
			{"no match", []uintptr{unix.CAP_SYS_PTRACE}, []string{"list", "127.0.0.9"}, 0, []string{"2 other network namespaces have processes: --netns=all"}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: tt.caps}
				r := runAs(t, attr, program.Path(t), tt.args...)
				if r.exit != tt.exit {
					t.Errorf("exit %d, want %d", r.exit, tt.exit)
				}
				for _, want := range tt.says {
					if !strings.Contains(r.stderr, want) {
						t.Errorf("%q is not in %s", want, r.stderr)
					}
				}
				p.mustAnswer(t, "write", "write ok 1")
			})
		}
	})
}
