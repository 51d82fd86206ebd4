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

// mount puts a file system over a directory, for the test's mount namespace only,
// until undo is called or the test ends.
func mount(t *testing.T, kind, target, options string) (undo func()) {
	t.Helper()
	if err := unix.Mount("none", target, kind, 0, options); err != nil {
		t.Fatalf("mount %s on %s: %v", kind, target, err)
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

// Where /proc hides the processes of others, nobody's flow has an owner: it is refused,
// or destroyed where that is allowed, or found with the rights that the answer names.
func TestPrivilegedHiddenProcesses(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		if err := unix.Mount("none", "/proc", "proc", unix.MS_REMOUNT, "hidepid=2"); err != nil {
			t.Fatal(err)
		}
		s := newStand(t, 1)
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
			{name: "the rights that are asked for", caps: []uintptr{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}, outcome: "closed", method: "shutdown", says: "owner is accessible", end: "write EPIPE -1"},
		} {
			fd := s.app.Connect(s.victim.addr(), false, false)
			attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: tt.caps}
			f := hangUpAs(t, attr, tt.exit, append([]string{"--output=json"}, s.args()...)...)
			if f.Outcome != tt.outcome || f.Method != tt.method || !strings.Contains(f.Detail, tt.says) {
				t.Errorf("%s: got %+v", tt.name, f)
			}
			if got := s.app.Ask("write %d", fd); got != tt.end {
				t.Errorf("%s: application: %q, want %q", tt.name, got, tt.end)
			}
			s.app.Ask("close %d", fd)
			s.mustSpareBystander(tt.name)
		}
	})
}

// Without a /proc nothing is hung up and nothing is shown as if it had been read; when it
// is there again, so is all else.
func TestPrivilegedNoProc(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		s := newStand(t, 1)
		s.connect()
		served := serveArmed(t, "--config.file="+policyFile(t, "    limits: {cooldown: 0s}"))
		const success = `tcphup_scrape_success{source="tcp"}`
		mustSample(t, success, 1)
		restore := mount(t, "tmpfs", "/proc", "")
		mustSample(t, success, 0)
		if _, ok := sample(t, fmt.Sprintf(`tcphup_sockets{destination="127.0.0.1",port="%d",state="established"}`, s.victim.addr().Port())); ok {
			t.Error("sockets are shown that cannot be told apart from accepted ones")
		}
		if answer, err := postAlert(t, s.victim.addr()); err != nil || !strings.HasPrefix(answer, "503 ") || !strings.Contains(answer, `"error":1`) {
			t.Errorf("the answer is %q, %v", answer, err)
		}
		r := tcphup(t, s.args()...)
		restore()
		if r.exit != 1 || !strings.Contains(r.stderr, "/proc") {
			t.Errorf("exit %d: %s", r.exit, r.stderr)
		}
		if !strings.Contains(served.logged(), "/proc") {
			t.Error("the log does not tell of it")
		}
		s.victim.mustCount(1, 0)
		mustSample(t, success, 1)
		if answer, err := postAlert(t, s.victim.addr()); err != nil || !strings.Contains(answer, `"closed":1`) {
			t.Errorf("the answer is %q, %v", answer, err)
		}
		s.mustSpareBystander("at last")
	})
}

// A disk without room for audit and state keeps nobody from hanging up. It is told, and
// when there is room again both files are written, and every line can be read.
func TestPrivilegedDiskFull(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		mount(t, "tmpfs", dir, "size=64k")
		audit, state, filler := filepath.Join(dir, "audit"), filepath.Join(dir, stateFile), filepath.Join(dir, "filler")
		nameHosts(t, serviceName, "127.0.1.1")
		s := newStand(t, 20) // more records than a page holds
		// The audit ends in the middle of a line: an earlier run had no room, either.
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
		awaitLog(t, served, "cannot save state of services")
		const unwritten = "tcphup_audit_write_errors_total"
		hangUp := func() {
			t.Helper()
			s.connect()
			if answer, err := postAlert(t, s.victim.addr()); err != nil || !strings.HasPrefix(answer, "200 ") || !strings.Contains(answer, `"closed":20`) {
				t.Errorf("the answer is %q, %v", answer, err)
			}
			s.finish("with a full disk")
		}
		hangUp()
		lost, _ := sample(t, unwritten)
		if lost == 0 || !strings.Contains(served.logged(), "cannot write audit record") {
			t.Errorf("%v records could not be written", lost)
		}
		if _, err := os.Stat(state); !os.IsNotExist(err) {
			t.Errorf("there is a state file: %v", err)
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
		// Every alert is a record and every flow one.
		if want := 1 + 2*(1+20) - int(lost); read != want || torn > 2 {
			t.Errorf("%d lines can be read, want %d; %d are torn, want 2 at most:\n%s", read, want, torn, content)
		}
		s.mustSpareBystander("at last")
	})
}

// The name of the network namespace is deleted while the program runs in it, and the
// peer's namespace with all of its devices: it sees and hangs up the flows that are
// left, and the others live on.
func TestPrivilegedNamespaceDeleted(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		nstest.Command(t, "ip", "netns", "attach", "own", fmt.Sprint(os.Getpid()))
		peer := nstest.NewPeer(t)
		s := newStand(t, 1)
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
			t.Errorf("the answer is %q, %v", answer, err)
		}
		if got := s.app.Hear(); got != "recv ok 0" {
			t.Errorf("the application reads %s", got)
		}
		if _, ok := sample(t, sockets); ok {
			t.Error("the flow is still shown")
		}
		s.mustSpareBystander("at last")
		if err := served.stop(); err != nil {
			t.Errorf("the end of the program: %v", err)
		}
	})
}
