package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedOwnerAccess checks owners whose descriptors belong to root although the
// process has another uid: it is not dumpable, or its first thread has ended.
func TestPrivilegedOwnerAccess(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		binary := testapp.Build(t)
		own := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: other, Gid: other}}
		capable := &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
			AmbientCaps: []uintptr{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH},
		}
		const notDumpable, noThreadPidfd = "(app) is not dumpable", "Linux 6.9"
		threads := ""
		if pidfd, err := unix.PidfdOpen(unix.Gettid(), unix.O_EXCL); err == nil { // PIDFD_THREAD
			unix.Close(pidfd)
		} else {
			threads = noThreadPidfd
		}
		for _, tt := range []struct {
			name, command string
			attr          *syscall.SysProcAttr
			refused       string // part of the detail; "": shut down
		}{
			{"not dumpable, same uid and gid", "undumpable", own, notDumpable},
			{"not dumpable, capabilities of the advice", "undumpable", capable, ""},
			{"not dumpable, root", "undumpable", nil, ""},
			{"first thread ended, same uid and gid", "thread", own, threads},
			{"first thread ended, capabilities", "thread", capable, threads},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
				app := testapp.StartAs(t, binary, other)
				app.Call("ignore")
				app.Connect(server.Addr(), false, false)
				if got := app.Call("%s", tt.command); got != tt.command+" ok" {
					t.Fatalf("application: %s", got)
				}
				nstest.Eventually(t, "the descriptors belong to root", func() bool {
					info, err := os.Stat(fmt.Sprintf("/proc/%d/fd", app.PID()))
					return err == nil && info.Sys().(*syscall.Stat_t).Uid == 0
				})
				outcome, method, exit := "closed", "shutdown", 0
				if tt.refused != "" {
					outcome, method, exit = "refused", "none", 1
				}
				f := hangUpAs(t, tt.attr, exit, "--method=shutdown", "--output=json", "127.0.0.1", strconv.Itoa(int(server.Addr().Port())))
				if f.Outcome != outcome || f.Method != method || !strings.Contains(f.Detail, tt.refused) {
					t.Errorf("got %+v, want %s by %s and a detail with %q", f, outcome, method, tt.refused)
				}
				app.Kill()
			})
		}
	})
}
