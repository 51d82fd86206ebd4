// Package testapp runs a test application in a separate process. Tests close its
// connections.
package testapp

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

var (
	//go:embed testdata/app.c
	app string
	//go:embed testdata/churn.c
	churn string
)

// BuildStatic builds a statically linked binary for a container without libraries.
func BuildStatic(t testing.TB) string {
	t.Helper()
	return Build(t, "-static")
}

// directoryVariable is the environment variable for the directory of the binaries app and
// churn, linked statically. It is set where there is no C compiler.
const directoryVariable = "TCPHUP_TEST_APPLICATIONS"

// Build compiles the application with additional compiler flags and returns the path of the
// binary. It needs a C compiler, unless the environment has the directory of the binaries.
func Build(t testing.TB, flags ...string) string {
	t.Helper()
	return build(t, "app", app, flags...)
}

// BuildChurn builds an application that runs without commands; testdata/churn.c has its
// arguments and output.
func BuildChurn(t testing.TB) string {
	t.Helper()
	return build(t, "churn", churn)
}

func build(t testing.TB, name, source string, flags ...string) string {
	t.Helper()
	if directory := os.Getenv(directoryVariable); directory != "" {
		return filepath.Join(directory, name)
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, name)
	flags = append(flags, "-pthread", "-D_GNU_SOURCE", "-Wall", "-Werror", "-O1", "-x", "c", "-o", binary, "-")
	cmd := exec.CommandContext(t.Context(), "cc", flags...)
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile test application (needs a C compiler: apt-get install gcc libc6-dev): %v\n%s", err, out)
	}
	// Some tests run it as another user.
	for _, path := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return binary
}

// App is a running application.
type App struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
	// exited is closed after the process has exited; state is valid from then on.
	exited chan struct{}
	state  *os.ProcessState
}

// Start runs the application until the test ends.
func Start(t testing.TB, binary string) *App {
	t.Helper()
	return StartCommand(t, exec.Command(binary))
}

// StartAs runs the application with another uid and gid.
func StartAs(t testing.TB, binary string, id uint32) *App {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	return StartCommand(t, cmd)
}

// StartCommand runs the application through another program that forwards stdin and stdout.
func StartCommand(t testing.TB, cmd *exec.Cmd) *App {
	t.Helper()
	a := &App{t: t, cmd: cmd, lines: make(chan string, 16), exited: make(chan struct{})}
	var err error
	if a.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			a.lines <- lines.Text()
		}
	}()
	go func() {
		// A forked child keeps stdout open, so wait for the process and not for EOF.
		defer close(a.exited)
		_ = cmd.Wait()
		a.state = cmd.ProcessState
	}()
	t.Cleanup(a.Kill)
	return a
}

// PID returns the process id.
func (a *App) PID() int { return a.cmd.Process.Pid }

// Kill kills the application and waits for its exit.
func (a *App) Kill() {
	_ = a.cmd.Process.Kill()
	<-a.exited
}

// Send sends a command and does not wait for the result.
func (a *App) Send(format string, args ...any) {
	a.t.Helper()
	if _, err := fmt.Fprintf(a.stdin, format+"\n", args...); err != nil {
		a.t.Fatalf("send command to application: %v", err)
	}
}

// Receive waits for the next result.
func (a *App) Receive() string {
	a.t.Helper()
	select {
	case line := <-a.lines:
		return line
	case <-a.exited:
		a.t.Fatalf("application exited: %v", a.state)
	case <-time.After(nstest.HangGuard):
		a.t.Fatalf("timed out after %v: result of application", nstest.HangGuard)
	}
	return ""
}

// Call sends a command and returns its result.
func (a *App) Call(format string, args ...any) string {
	a.t.Helper()
	a.Send(format, args...)
	return a.Receive()
}

// Connect opens a connection and returns its descriptor.
func (a *App) Connect(to netip.AddrPort, mapped, mptcp bool) int {
	a.t.Helper()
	addr, protocol := to.Addr(), "tcp"
	if mapped {
		addr = netip.AddrFrom16(addr.As16())
	}
	if mptcp {
		protocol = "mptcp"
	}
	answer := a.Call("connect %s %d %s", addr, to.Port(), protocol)
	fd, ok := strings.CutPrefix(answer, "connect ok ")
	if !ok {
		a.t.Fatalf("application: connect to %v: %s", to, answer)
	}
	n, err := strconv.Atoi(fd)
	if err != nil {
		a.t.Fatal(err)
	}
	return n
}

// Listen opens a listener on an ephemeral port and returns its descriptor and address.
func (a *App) Listen(host string) (int, netip.AddrPort) {
	a.t.Helper()
	answer := a.Call("listen %s", host)
	var fd int
	var port uint16
	if _, err := fmt.Sscanf(answer, "listen ok %d %d", &fd, &port); err != nil {
		a.t.Fatalf("%s: %v", answer, err)
	}
	return fd, netip.AddrPortFrom(netip.MustParseAddr(host), port)
}

// Block sends a command and waits until the application blocks in one of the system calls.
func (a *App) Block(command string, fd int, calls ...uintptr) {
	a.t.Helper()
	a.Send("%s %d", command, fd)
	nstest.Eventually(a.t, "the application blocks in "+command, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", a.PID()))
		if err != nil {
			return false
		}
		number, rest, _ := strings.Cut(string(b), " ")
		first, _, _ := strings.Cut(rest, " ")
		for _, call := range calls {
			// The first argument distinguishes the socket from stdin.
			if number == strconv.Itoa(int(call)) && (command != "recv" || first == fmt.Sprintf("%#x", fd)) {
				return true
			}
		}
		return false
	})
}

// Alive reports whether the process is running.
func (a *App) Alive() bool {
	select {
	case <-a.exited:
		return false
	default:
		return true
	}
}
