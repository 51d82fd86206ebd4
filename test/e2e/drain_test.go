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

// Roles of the test binary in the drain test.
const (
	drainServerVariable = "TCPHUP_E2E_DRAIN_SERVER"
	drainClientVariable = "TCPHUP_E2E_DRAIN_CLIENT"
)

const drainConnections = 50

// drainServer answers the first request of each connection. It prints a line when each
// has sent a second one, which it answers after a line of input.
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

// drainClient posts twice over each of its connections, never repeats a request, and
// prints how many of the second ones were lost.
func drainClient(url string) {
	var lost atomic.Int64
	var workers sync.WaitGroup
	for range drainConnections {
		workers.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
			for _, path := range []string{"/first", "/second"} {
				// net/http repeats a POST of which nothing was sent, and no other.
				response, err := client.Post(url+path, "text/plain", strings.NewReader("work"))
				if err == nil {
					_, err = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
				if err != nil {
					lost.Add(1)
				}
				// Longer than a tick of the kernel's clock, which orders answer and request.
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	workers.Wait()
	fmt.Println(lost.Load())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// startRole runs the test binary in one of its roles.
func startRole(t *testing.T, variable, value string) *partner {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+value)
	return startPartner(t, cmd)
}

// With drain a request that waits for its answer is not cut, on the side that asks nor
// on the side that answers. Without drain it is.
func TestPrivilegedDrain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, direction := range []string{"outbound", "inbound"} {
			for _, drain := range []bool{false, true} {
				t.Run(fmt.Sprint(direction, " drain ", drain), func(t *testing.T) { hangUpAsked(t, direction, drain) })
			}
		}
	})
}

// hangUpAsked hangs up connections each of which has a request without an answer.
func hangUpAsked(t *testing.T, direction string, drain bool) {
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
	answer := func() {
		if _, err := io.WriteString(server.stdin, "answer\n"); err != nil {
			t.Fatal(err)
		}
	}
	if drain {
		const looks = 4 * drainConnections // without a wait there are fewer than two for each flow
		nstest.Eventually(t, "tcphup looks at the flows again and again", func() bool { return callsIn(log) > looks || p.hasExited() })
		if p.hasExited() {
			t.Error("it does not wait for the answers")
		}
		answer()
		if lost := client.line(); lost != "0" {
			t.Errorf("%s requests lost, want none", lost)
		}
	} else {
		if lost := client.line(); lost != fmt.Sprint(drainConnections) {
			t.Errorf("%s requests lost, want %d", lost, drainConnections)
		}
		answer()
	}
	if err := p.wait(); err != nil || !strings.Contains(p.logged(), fmt.Sprintf("%d closed", drainConnections)) {
		t.Errorf("the command ended with %v", err)
	}
}
