package situations

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/testapp"
)

// asUser hangs up a connection of a user as another one, and with a setting of Yama unless
// scope is empty.
func asUser(owner, caller uint32, scope string, mptcp bool) func(*testing.T) string {
	return func(t *testing.T) string {
		if scope != "" {
			const path = "/proc/sys/kernel/yama/ptrace_scope"
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				return "no Yama"
			}
			set(t, path, scope)
		}
		peer := listen(t, "127.0.0.1:0", mptcp)
		peer.caller = caller
		app := testapp.StartAs(t, testapp.Build(t), owner)
		app.Call("ignore")
		return hangUpReader(t, app, connect(app, peer, false, mptcp), peer)
	}
}

// set changes a setting of the machine until the test ends.
func set(t *testing.T, path, value string) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, before, 0o644); err != nil {
			t.Error(err)
		}
	})
}

// remove unloads a module and keeps the kernel from loading any until the test ends.
func remove(t *testing.T, module string) {
	t.Helper()
	set(t, "/proc/sys/kernel/modprobe", "\n")
	if err := unix.DeleteModule(module, unix.O_NONBLOCK); err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatalf("remove module %s: %v", module, err)
	}
}

// withoutModule hangs up an idle TCP connection on a kernel without a module.
func withoutModule(module string) func(*testing.T) string {
	return func(t *testing.T) string {
		if module != "tcp_diag" {
			loadTCPDiag(t)
		}
		remove(t, module)
		return idle("127.0.0.1:0", false, false)(t)
	}
}

func mptcpWithoutModule(t *testing.T) string {
	loadTCPDiag(t)
	remove(t, "mptcp_diag")
	return idle("127.0.0.1:0", false, true)(t)
}
