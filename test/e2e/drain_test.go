package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// Environment variables that select a role of the test binary.
const (
	drainServerVariable = "TCPHUP_E2E_DRAIN_SERVER"
	drainClientVariable = "TCPHUP_E2E_DRAIN_CLIENT"
)

const drainConnections = 50

// drainServer responds to the first request of each connection. It prints a line once every
// connection has sent a second request, and responds to those after a line of input.
func drainServer() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(listener.Addr())
	var held atomic.Int64
	release := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/second" {
			if held.Add(1) == drainConnections {
				fmt.Println("held")
			}
			<-release
		}
		fmt.Fprint(w, "done")
	})}
	go func() { _ = server.Serve(listener) }()
	input := bufio.NewScanner(os.Stdin)
	input.Scan()
	close(release)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// drainClient posts twice over each connection without retries and prints the number of
// failed requests.
func drainClient(url string) {
	var lost atomic.Int64
	var workers sync.WaitGroup
	for range drainConnections {
		workers.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
			for _, path := range []string{"/first", "/second"} {
				// net/http retries a POST only when no byte of it was sent.
				response, err := client.Post(url+path, "text/plain", strings.NewReader("work"))
				if err == nil {
					_, err = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
				if err != nil {
					lost.Add(1)
				}
				// Longer than a jiffy, so that tcp_info orders response and request.
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	workers.Wait()
	fmt.Println(lost.Load())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// startRole runs the test binary in one of its roles.
func startRole(t *testing.T, variable, value string) *interactive {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+value)
	return startInteractive(t, cmd)
}

// TestPrivilegedDrain checks that only with drain a hang-up waits for pending responses, on
// the client's and on the server's side.
func TestPrivilegedDrain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, direction := range []string{"outbound", "inbound"} {
			for _, drain := range []bool{false, true} {
				t.Run(fmt.Sprint(direction, " drain ", drain), func(t *testing.T) { hangUpPending(t, direction, drain) })
			}
		}
	})
}

// hangUpPending hangs up connections that all have a pending request.
func hangUpPending(t *testing.T, direction string, drain bool) {
	server := startRole(t, drainServerVariable, "yes")
	host, port, err := net.SplitHostPort(server.line())
	if err != nil {
		t.Fatal(err)
	}
	client := startRole(t, drainClientVariable, "http://"+net.JoinHostPort(host, port))
	if got := server.line(); got != "held" {
		t.Fatal(got)
	}
	args := []string{"--linger=1m", "--direction=" + direction, host, port}
	if drain {
		args = append(args, "--drain-quiet=20ms", "--drain-deadline=1h")
	}
	log := filepath.Join(t.TempDir(), "strace")
	p := startCommand(t, tracing(t, log, "sendmsg", args...))
	respond := func() {
		if _, err := io.WriteString(server.stdin, "respond\n"); err != nil {
			t.Fatal(err)
		}
	}
	if drain {
		const polls = 4 * drainConnections // without a drain, fewer than two calls per flow
		nstest.Eventually(t, "tcphup polls the flows", func() bool { return callsIn(log) > polls || p.hasExited() })
		if p.hasExited() {
			t.Error("exited before the responses")
		}
		respond()
		if lost := client.line(); lost != "0" {
			t.Errorf("%s requests lost, want none", lost)
		}
	} else {
		if lost := client.line(); lost != fmt.Sprint(drainConnections) {
			t.Errorf("%s requests lost, want %d", lost, drainConnections)
		}
		respond()
	}
	if err := p.wait(); err != nil || !strings.Contains(p.logged(), fmt.Sprintf("%d closed", drainConnections)) {
		t.Errorf("exit: %v\n%s", err, p.logged())
	}
}
