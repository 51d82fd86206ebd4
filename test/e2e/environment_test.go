package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// mountTmpfs mounts a tmpfs in the test's mount namespace until undo or the end of the test.
func mountTmpfs(t *testing.T, target, options string) (undo func()) {
	t.Helper()
	if err := unix.Mount("none", target, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount tmpfs on %s: %v", target, err)
	}
	mounted := true
	undo = func() {
		if !mounted {
			return
		}
		mounted = false
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	}
	t.Cleanup(undo)
	return undo
}

// TestPrivilegedHiddenProcesses checks hidepid=2: a flow without a visible owner is refused, or
// destroyed with CAP_NET_ADMIN. With the capabilities named in the detail it is shut down.
func TestPrivilegedHiddenProcesses(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		if err := unix.Mount("none", "/proc", "proc", unix.MS_REMOUNT, "hidepid=2"); err != nil {
			t.Fatal(err)
		}
		s := newFixture(t, 1)
		for _, tt := range []struct {
			name    string
			caps    []uintptr
			exit    int
			outcome string
			method  string
			says    string
			end     string
		}{
			{name: "no rights", exit: 1, outcome: "refused", method: "none", says: "CAP_SYS_PTRACE", end: "write ok 1"},
			{name: "destroy", caps: []uintptr{unix.CAP_NET_ADMIN}, outcome: "closed", method: "destroy", says: "shutdown refused", end: "write ECONNABORTED -1"},
			{name: "capabilities of the hint", caps: []uintptr{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}, outcome: "closed", method: "shutdown", says: "FIN acknowledged", end: "write EPIPE -1"},
		} {
			fd := s.app.Connect(s.target.addr(), false, false)
			attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: tt.caps}
			f := hangUpAs(t, attr, tt.exit, append([]string{"--output=json"}, s.args()...)...)
			if f.Outcome != tt.outcome || f.Method != tt.method || !strings.Contains(f.Detail, tt.says) {
				t.Errorf("%s: got %+v", tt.name, f)
			}
			if got := s.app.Call("write %d", fd); got != tt.end {
				t.Errorf("%s: application: %q, want %q", tt.name, got, tt.end)
			}
			s.app.Call("close %d", fd)
			s.mustKeepBystander(tt.name)
		}
	})
}

// TestPrivilegedNoProc checks that without /proc no flow is hung up and no socket series is
// exported, and that everything works again once /proc is back.
func TestPrivilegedNoProc(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		s := newFixture(t, 1)
		s.connect()
		served := serveArmed(t, "--config.file="+policyFile(t, "    limits: {cooldown: 0s}"))
		const success = `tcphup_scrape_success{source="tcp"}`
		mustSample(t, success, 1)
		restore := mountTmpfs(t, "/proc", "")
		mustSample(t, success, 0)
		if _, ok := sample(t, fmt.Sprintf(`tcphup_sockets{destination="127.0.0.1",port="%d",state="established"}`, s.target.addr().Port())); ok {
			t.Error("sockets of unknown direction exported")
		}
		if answer, err := postAlert(t, s.target.addr()); err != nil || !strings.HasPrefix(answer, "503 ") || !strings.Contains(answer, `"error":1`) {
			t.Errorf("response: %q, %v", answer, err)
		}
		r := tcphup(t, s.args()...)
		restore()
		if r.exit != 1 || !strings.Contains(r.stderr, "/proc") {
			t.Errorf("exit %d: %s", r.exit, r.stderr)
		}
		if !strings.Contains(served.logged(), "/proc") {
			t.Error("error not logged")
		}
		s.target.mustCount(1, 0)
		mustSample(t, success, 1)
		if answer, err := postAlert(t, s.target.addr()); err != nil || !strings.Contains(answer, `"closed":1`) {
			t.Errorf("response: %q, %v", answer, err)
		}
		s.mustKeepBystander("at last")
	})
}

// TestPrivilegedDiskFull checks that hang-ups work with a full disk for audit log and state.
// Write errors are reported, and both files are valid once there is space again.
func TestPrivilegedDiskFull(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		mountTmpfs(t, dir, "size=64k")
		audit, state, filler := filepath.Join(dir, "audit"), filepath.Join(dir, stateFile), filepath.Join(dir, "filler")
		nameHosts(t, serviceName, "127.0.1.1")
		s := newFixture(t, 20) // more records than fit into a page
		// The audit log ends in a partial line of an earlier run.
		if err := os.WriteFile(audit, []byte(`{"result":"earlier"}`+"\n"+`{"result":"cut o`), 0o600); err != nil {
			t.Fatal(err)
		}
		full, err := os.Create(filler)
		for err == nil {
			_, err = full.Write(make([]byte, 4096))
		}
		if full.Close(); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		served := serveArmed(t, "--audit.log-file="+audit, "--state.directory="+dir, "--service="+serviceName+":5432",
			"--config.file="+policyFile(t, "    limits: {cooldown: 0s, breaker: {actions: 100}}"))
		awaitLog(t, served, "cannot save service state")
		const unwritten = "tcphup_audit_write_errors_total"
		hangUp := func() {
			t.Helper()
			s.connect()
			if answer, err := postAlert(t, s.target.addr()); err != nil || !strings.HasPrefix(answer, "200 ") || !strings.Contains(answer, `"closed":20`) {
				t.Errorf("response: %q, %v", answer, err)
			}
			s.finish("with a full disk")
		}
		hangUp()
		lost, _ := sample(t, unwritten)
		if lost == 0 || !strings.Contains(served.logged(), "cannot write audit record") {
			t.Errorf("%v write errors", lost)
		}
		if _, err := os.Stat(state); !os.IsNotExist(err) {
			t.Errorf("state file exists: %v", err)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		hangUp()
		mustSample(t, unwritten, lost)
		nstest.Eventually(t, "the state is saved", func() bool {
			b, err := os.ReadFile(state)
			return err == nil && json.Valid(b) && strings.Contains(string(b), "127.0.1.1")
		})
		content, err := os.ReadFile(audit)
		if err != nil {
			t.Fatal(err)
		}
		torn, read := 0, 0
		for line := range strings.Lines(string(content)) {
			if json.Valid([]byte(line)) {
				read++
			} else {
				torn++
			}
		}
		// A begin record, one per flow and an end record.
		if want := 1 + 2*(1+20+1) - int(lost); read != want || torn > 2 {
			t.Errorf("%d valid lines, want %d; %d partial lines, want 2 at most:\n%s", read, want, torn, content)
		}
		s.mustKeepBystander("at last")
	})
}

// TestPrivilegedNamespaceDeleted deletes the name of tcphup's network namespace and the peer's
// namespace with its devices. tcphup still lists and hangs up the remaining flows.
func TestPrivilegedNamespaceDeleted(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		nstest.Command(t, "ip", "netns", "attach", "own", fmt.Sprint(os.Getpid()))
		peer := nstest.NewPeer(t)
		s := newFixture(t, 1)
		var gone *testapp.Server
		peer.Do(func() { gone = testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0"}) })
		to := netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), gone.Addr().Port())
		fd := s.app.Connect(to, false, false)
		served := serveArmed(t, "--config.file="+writeFile(t, "tcphup.yml", strings.Replace(policyText("    linger: 1s"), "127.0.0.0/8", "10.99.0.0/24", 1)))
		sockets := fmt.Sprintf(`tcphup_sockets{destination=%q,port="%d",state="established"}`, to.Addr(), to.Port())
		mustSample(t, sockets, 1)
		s.app.Block("recv", fd, unix.SYS_RECVFROM)
		for _, link := range []string{"one", "two"} {
			nstest.Command(t, "ip", "-n", "peer", "link", "del", link)
		}
		nstest.Command(t, "ip", "netns", "del", "peer")
		nstest.Command(t, "ip", "netns", "del", "own")
		mustSample(t, sockets, 1)
		answer, err := postAlert(t, to)
		if err != nil || !strings.HasPrefix(answer, "200 ") || !strings.Contains(answer, `"closed":1`) {
			t.Errorf("response: %q, %v", answer, err)
		}
		if got := s.app.Receive(); got != "recv ok 0" {
			t.Errorf("application: %s", got)
		}
		if _, ok := sample(t, sockets); ok {
			t.Error("flow still exported")
		}
		s.mustKeepBystander("at last")
		if err := served.stop(); err != nil {
			t.Errorf("exit: %v", err)
		}
	})
}
