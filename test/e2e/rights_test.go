package e2e

import (
	"encoding/json"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

const (
	nobody = 65534
	other  = 12345 // an application's uid and gid
)

// TestPrivilegedRights checks the method and the detail of hang-ups for combinations of users
// and capabilities.
func TestPrivilegedRights(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		binary := testapp.Build(t)
		for _, tt := range []struct {
			name     string
			uid, gid uint32
			caps     []uintptr
			app      uint32
			mptcp    bool
			method   string
			outcome  string
			reason   string
			took     string
			says     string
			exit     int
		}{
			{name: "same uid and gid", uid: other, gid: other, app: other, outcome: "closed", took: "shutdown"},
			{name: "same uid, other gid", uid: other, gid: nobody, app: other, outcome: "refused", reason: "permission", took: "none", says: "CAP_SYS_PTRACE", exit: 1},
			{name: "no right", uid: nobody, gid: nobody, app: other, outcome: "refused", reason: "permission", took: "none", says: "CAP_NET_ADMIN", exit: 1},
			{name: "only NET_ADMIN", uid: nobody, gid: nobody, caps: []uintptr{unix.CAP_NET_ADMIN}, app: other, outcome: "closed", took: "destroy", says: "shutdown refused"},
			{name: "only NET_ADMIN, MPTCP", uid: nobody, gid: nobody, caps: []uintptr{unix.CAP_NET_ADMIN}, app: other, mptcp: true, outcome: "refused", reason: "permission", took: "none", says: "not notify the application", exit: 1},
			{name: "only NET_ADMIN, shutdown asked for", uid: nobody, gid: nobody, caps: []uintptr{unix.CAP_NET_ADMIN}, app: other, method: "shutdown", outcome: "refused", reason: "permission", took: "none", says: "CAP_SYS_PTRACE", exit: 1},
			{name: "only SYS_PTRACE", uid: nobody, gid: nobody, caps: []uintptr{unix.CAP_SYS_PTRACE}, app: other, outcome: "refused", reason: "permission", took: "none", says: "CAP_DAC_READ_SEARCH", exit: 1},
			{name: "SYS_PTRACE and DAC_READ_SEARCH", uid: nobody, gid: nobody, caps: []uintptr{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}, app: other, outcome: "closed", took: "shutdown"},
			{name: "same uid and gid, destroy asked for", uid: other, gid: other, app: other, method: "destroy", outcome: "refused", reason: "permission", took: "none", says: "CAP_NET_ADMIN", exit: 1},
		} {
			t.Run(tt.name, func(t *testing.T) {
				if tt.mptcp {
					nstest.NeedMPTCP(t)
				}
				server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0", MPTCP: tt.mptcp})
				app := testapp.StartAs(t, binary, tt.app)
				app.Call("ignore")
				fd := app.Connect(server.Addr(), false, tt.mptcp)
				args := []string{"--output=json", "127.0.0.1", strconv.Itoa(int(server.Addr().Port()))}
				if tt.method != "" {
					args = append([]string{"--method=" + tt.method}, args...)
				}
				attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: tt.gid}, AmbientCaps: tt.caps}
				f := hangUpAs(t, attr, tt.exit, args...)
				if f.Outcome != tt.outcome || f.Reason != tt.reason || f.Method != tt.took || !strings.Contains(f.Detail, tt.says) {
					t.Errorf("got %+v", f)
				}
				want := "write ok 1"
				if tt.outcome == "closed" {
					want = "write EPIPE -1"
					if tt.took == "destroy" {
						want = "write ECONNABORTED -1"
					}
				}
				if got := app.Call("write %d", fd); got != want {
					t.Errorf("application: %q, want %q", got, want)
				}
			})
		}
	})
}

// TestPrivilegedOtherPIDNamespace checks flows of a process in another pid namespace: shutdown
// is refused, destroy works.
func TestPrivilegedOtherPIDNamespace(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		app := testapp.Start(t, binary)
		app.Call("ignore")
		fd := app.Connect(server.Addr(), false, false)
		unshare := []string{"--pid", "--fork", "--mount-proc", program.Path(t), "--output=json"}

		r := runProgram(t, nil, need(t, "unshare", "util-linux"), append(unshare, "--method=shutdown", "127.0.0.1", "0")...)
		r.mustExit(t, 1)
		if f := onlyFlow(t, r); f.Outcome != "refused" || f.Reason != "permission" || !strings.Contains(f.Detail, "pid namespace") {
			t.Errorf("shutdown: %+v", f)
		}
		if got := app.Call("write %d", fd); got != "write ok 1" {
			t.Errorf("application: %q", got)
		}
		r = runProgram(t, nil, need(t, "unshare", "util-linux"), append(unshare, "127.0.0.1", "0")...)
		r.mustExit(t, 0)
		if f := onlyFlow(t, r); f.Outcome != "closed" || f.Method != "destroy" {
			t.Errorf("auto: %+v", f)
		}

		// With the /proc of another pid namespace, pids would refer to the wrong processes.
		app.Connect(server.Addr(), false, false)
		r = runProgram(t, nil, need(t, "unshare", "util-linux"), "--pid", "--fork", program.Path(t), "127.0.0.1", "0")
		r.mustExit(t, 1)
		if !strings.Contains(r.stderr, "another pid namespace") {
			t.Errorf("with the outer /proc: %s", r.stderr)
		}
	})
}

type flowReport struct {
	Remote, Outcome, Reason, Method, Detail string
	Reconnect                               *struct {
		Remote      string
		SameAddress bool    `json:"same_address"`
		After       float64 `json:"after_seconds"`
	}
}

func onlyFlow(t *testing.T, r result) flowReport {
	t.Helper()
	var report struct{ Flows []flowReport }
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("%v in %s%s", err, r.stdout, r.stderr)
	}
	if len(report.Flows) != 1 {
		t.Fatalf("got %d flows: %s", len(report.Flows), r.stdout)
	}
	return report.Flows[0]
}

func hangUpAs(t *testing.T, attr *syscall.SysProcAttr, exit int, args ...string) flowReport {
	t.Helper()
	r := runAs(t, attr, program.Path(t), args...)
	r.mustExit(t, exit)
	return onlyFlow(t, r)
}

// noYama fails the test when Yama restricts ptrace beyond the capabilities under test.
func noYama(t *testing.T) {
	t.Helper()
	const scope = "/proc/sys/kernel/yama/ptrace_scope"
	if b, err := os.ReadFile(scope); err == nil && strings.TrimSpace(string(b)) != "0" {
		t.Fatalf("%s is %s, want 0", scope, strings.TrimSpace(string(b)))
	}
}

// TestPrivilegedProbe checks that the probe matches the results of hang-ups.
func TestPrivilegedProbe(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		noYama(t)
		testapp.StartAs(t, testapp.Build(t), other).Call("ignore")
		hasMPTCP := nstest.HasMPTCP()
		for _, tt := range []struct {
			name     string
			attr     *syscall.SysProcAttr
			mptcp    string // net.mptcp.enabled
			exit     int
			usable   map[string]bool
			fixNames map[string]string
		}{
			{name: "root", exit: 0, mptcp: "1", usable: map[string]bool{
				"dump_ipv4": true, "dump_ipv6": true, "dump_mptcp": true, "shutdown": true, "shutdown_mptcp": true,
				"destroy": true, "destroy_mptcp_path": true, "processes": true,
			}},
			{
				name: "nobody", exit: 1, mptcp: "1", attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
				usable: map[string]bool{"dump_ipv4": true, "dump_ipv6": true, "dump_mptcp": true, "shutdown": false, "shutdown_mptcp": false, "destroy": false, "processes": false},
				fixNames: map[string]string{
					"shutdown": "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH", "destroy": "CAP_NET_ADMIN", "processes": "uid and gid",
				},
			},
			{
				name: "only NET_ADMIN", exit: 0, mptcp: "1",
				attr:   &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: []uintptr{unix.CAP_NET_ADMIN}},
				usable: map[string]bool{"shutdown": false, "shutdown_mptcp": false, "destroy": true, "destroy_mptcp_path": true, "processes": false},
			},
			{
				name: "no MPTCP", exit: 0, mptcp: "0",
				usable:   map[string]bool{"dump_ipv4": true, "dump_mptcp": false, "shutdown": true, "shutdown_mptcp": false, "destroy": true},
				fixNames: map[string]string{"dump_mptcp": "not listed and not hung up"},
			},
		} {
			t.Run(tt.name, func(t *testing.T) {
				if hasMPTCP {
					if err := os.WriteFile("/proc/sys/net/mptcp/enabled", []byte(tt.mptcp), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				r := runAs(t, tt.attr, program.Path(t), "probe", "--output=json")
				r.mustExit(t, tt.exit)
				var checks []struct {
					Name, Detail, Fix string
					Usable            bool
				}
				if err := json.Unmarshal([]byte(r.stdout), &checks); err != nil {
					t.Fatalf("%v in %s", err, r.stdout)
				}
				seen := 0
				for _, c := range checks {
					if want, ok := tt.usable[c.Name]; ok {
						seen++
						want = want && (hasMPTCP || !strings.Contains(c.Name, "mptcp"))
						if c.Usable != want || c.Detail == "" {
							t.Errorf("%s: usable %v, want %v: %s", c.Name, c.Usable, want, c.Detail)
						}
					}
					if fix := tt.fixNames[c.Name]; !strings.Contains(c.Fix, fix) {
						t.Errorf("%s: fix is %q, want one with %q", c.Name, c.Fix, fix)
					}
				}
				if seen != len(tt.usable) {
					t.Errorf("%d of %d checks found: %s", seen, len(tt.usable), r.stdout)
				}
			})
		}
	})
}

// TestPrivilegedServeWithoutRights checks that the exporter runs without rights and exports
// unusable methods as 0.
func TestPrivilegedServeWithoutRights(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		testapp.StartAs(t, testapp.Build(t), other).Call("ignore")
		p := startProcessAs(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
			program.Path(t), "serve", "--web.listen-address="+tcphupAddress, "--alerts.listen-address="+receiverAddress)
		awaitPage(t, "http://"+tcphupAddress+"/-/ready")
		for series, want := range map[string]float64{
			`tcphup_method_usable{method="shutdown"}`: 0,
			`tcphup_method_usable{method="destroy"}`:  0,
			`tcphup_scrape_success{source="tcp"}`:     1,
			`tcphup_scrape_success{source="mptcp"}`:   1,
		} {
			if got, ok := sample(t, series); !ok || got != want {
				t.Errorf("%s is %v, %v; want %v", series, got, ok, want)
			}
		}
		log, err := os.ReadFile(p.log)
		if err != nil || !strings.Contains(string(log), "CAP_NET_ADMIN") {
			t.Errorf("log without the missing capability: %s, %v", log, err)
		}
	})
}

// TestPrivilegedReconnect checks the reported reconnect after a hang-up: same address, another
// address or none.
func TestPrivilegedReconnect(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		binary := testapp.Build(t)
		for _, tt := range []struct {
			name, next string
			same       bool
			says       string
		}{
			{name: "same address", next: "127.0.0.2", same: true, says: "reconnected to the same address 127.0.0.2 (1)"},
			{name: "other address", next: "127.0.0.3", says: "reconnected to 127.0.0.3 (1)"},
			{name: "nowhere", says: "no reconnect seen"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := testapp.Serve(t, testapp.ServerConfig{Address: "0.0.0.0:0"})
				port := server.Addr().Port()
				first := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port)
				for _, output := range []string{"json", "table"} {
					app, bystander := testapp.Start(t, binary), testapp.Start(t, binary)
					app.Call("ignore")
					fd := app.Connect(first, false, false)
					app.Block("recv", fd, unix.SYS_RECVFROM)
					// The watch ends with the reconnect, or after its time.
					watch := "1h"
					if tt.next == "" {
						watch = "1s"
					}
					done := make(chan result, 1)
					go func() {
						done <- tcphup(t, "--watch-reconnect="+watch, "--output="+output, "127.0.0.2", "0")
					}()
					if got := app.Receive(); got != "recv ok 0" {
						t.Fatalf("application: %q", got)
					}
					// A new flow of another process to the same port is no reconnect.
					bystander.Connect(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), port), false, false)
					if tt.next != "" {
						app.Connect(netip.AddrPortFrom(netip.MustParseAddr(tt.next), port), false, false)
					}
					r := <-done
					r.mustExit(t, 0)
					app.Kill()
					if output == "table" {
						// The reconnect is below the report, and no log line is above it.
						if !strings.HasPrefix(r.stderr, "tcphup: 1 closed\ntcphup: "+tt.says) || strings.Count(r.stderr, "\n") != 2 {
							t.Errorf("stderr: %s", r.stderr)
						}
						continue
					}
					f := onlyFlow(t, r)
					if f.Reconnect == nil {
						t.Fatalf("report without reconnect: %s", r.stdout)
					}
					want := ""
					if tt.next != "" {
						want = netip.AddrPortFrom(netip.MustParseAddr(tt.next), port).String()
					}
					if f.Reconnect.Remote != want || f.Reconnect.SameAddress != tt.same {
						t.Errorf("reconnect: %+v, want %q, same %v", *f.Reconnect, want, tt.same)
					}
				}
			})
		}
	})
}
