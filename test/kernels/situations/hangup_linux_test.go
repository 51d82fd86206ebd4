package situations

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
	"tcphup/test/kit/testapp"
)

// start starts an application that ignores SIGPIPE, like most daemons.
func start(t *testing.T) *testapp.App {
	t.Helper()
	app := testapp.Start(t, testapp.Build(t))
	app.Call("ignore")
	return app
}

// peer is the other end of a connection of the application.
type peer struct {
	t        *testing.T
	listener net.Listener
	address  netip.AddrPort // where the application connects to
	selected netip.AddrPort // where tcphup hangs up connections to
	conn     net.Conn       // the accepted connection
	keepOpen bool           // do not close after EOF
	caller   uint32         // user that runs tcphup
}

func listen(t *testing.T, address string, mptcp bool) *peer {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(mptcp)
	listener, err := config.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	to := listener.Addr().(*net.TCPAddr).AddrPort()
	return &peer{t: t, listener: listener, address: to, selected: to}
}

// listenOn listens on another host.
func listenOn(t *testing.T, host *nstest.Peer, mptcp bool) *peer {
	t.Helper()
	var p *peer
	host.Do(func() { p = listen(t, "0.0.0.0:0", mptcp) })
	p.address = netip.AddrPortFrom(netip.MustParseAddr(nstest.Peer4), p.address.Port())
	p.selected = p.address
	return p
}

// accept accepts the application's connection.
func (p *peer) accept() {
	p.t.Helper()
	var err error
	if p.conn, err = p.listener.Accept(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = p.conn.Close() })
}

// closeAfterEOF reads a connection in the background and closes it after EOF or an error.
func closeAfterEOF(conn net.Conn) {
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}()
}

// hangUpReader hangs up an accepted connection while the application waits in recv(2).
func hangUpReader(t *testing.T, app *testapp.App, fd int, p *peer, flags ...string) string {
	t.Helper()
	if !p.keepOpen {
		closeAfterEOF(p.conn)
	}
	app.Block("recv", fd, unix.SYS_RECVFROM)
	answer := hangUpAs(t, p.caller, p.selected, flags...)
	// An application that saw nothing receives this.
	_, _ = p.conn.Write([]byte("x"))
	return answer + "; " + seen(app.Receive())
}

// connect opens and accepts a connection and returns the application's descriptor.
func connect(app *testapp.App, p *peer, mapped, mptcp bool) int {
	p.t.Helper()
	fd := app.Connect(p.address, mapped, mptcp)
	p.accept()
	return fd
}

func hangUp(t *testing.T, to netip.AddrPort, flags ...string) string {
	t.Helper()
	return hangUpAs(t, 0, to, flags...)
}

// hangUpAs runs tcphup as a user and returns its answer for the only matching connection.
func hangUpAs(t *testing.T, user uint32, to netip.AddrPort, flags ...string) string {
	t.Helper()
	args := append([]string{"--output=json", "--linger=1s", to.Addr().String(), strconv.Itoa(int(to.Port()))}, flags...)
	cmd := exec.Command(program.Path(t), args...)
	if user != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Logf("tcphup: exit code %d\n%s%s", cmd.ProcessState.ExitCode(), stdout.Bytes(), stderr.Bytes())
	if stdout.Len() == 0 {
		return "error" + hint(stderr.String())
	}
	var report struct{ Flows []hangup.ResultJSON }
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	switch {
	case len(report.Flows) == 0:
		return "no match"
	case len(report.Flows) > 1:
		t.Fatalf("%d flows, want 1", len(report.Flows))
	}
	switch f := report.Flows[0]; f.Outcome {
	case hangup.Refused:
		return "refused (" + string(f.Reason) + ")" + hint(f.Detail)
	case hangup.Failed:
		return "failed" + hint(f.Error)
	default:
		if f.Method == hangup.None {
			return string(f.Outcome)
		}
		return string(f.Outcome) + " by " + string(f.Method)
	}
}

var modprobe = regexp.MustCompile(`modprobe \w+`)

// hint returns the advice of a message to load a module.
func hint(message string) string {
	if advice := modprobe.FindString(message); advice != "" {
		return ", " + advice
	}
	return ""
}

// seen returns the meaning of the result of the application's system call.
func seen(result string) string {
	switch result {
	case "recv ok 0":
		return "EOF"
	case "recv ok 1", "write ok 1":
		return "undisturbed"
	}
	// "recv ECONNABORTED -1"
	if fields := strings.Fields(result); len(fields) > 1 {
		return fields[1]
	}
	return result
}

// await waits for a connection to a remote port in a state.
func await(t *testing.T, port uint16, state int) {
	t.Helper()
	nstest.Eventually(t, fmt.Sprintf("a connection to port %d is in state %d", port, state), func() bool {
		return connections(t, port, state) > 0
	})
}

// connections counts the TCP sockets with a remote port in a state. It needs no kernel module.
func connections(t *testing.T, port uint16, state int) (n int) {
	t.Helper()
	// Not /proc/self, which is of the first thread: that may be left in a peer's namespace.
	table, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		// Number, local and remote address with port, state; in hexadecimal digits.
		f := strings.Fields(line)
		if strings.HasSuffix(f[2], fmt.Sprintf(":%04X", port)) && f[3] == fmt.Sprintf("%02X", state) {
			n++
		}
	}
	return n
}

// loadTCPDiag has the kernel load tcp_diag.
func loadTCPDiag(t *testing.T) {
	t.Helper()
	nstest.Command(t, "/sbin/modprobe", "tcp_diag")
}
