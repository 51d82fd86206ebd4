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
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tcphup/test/kit/nstest"
)

// Environment variables that select a role of the test binary.
const (
	drainServerVariable = "TCPHUP_E2E_DRAIN_SERVER"
	drainClientVariable = "TCPHUP_E2E_DRAIN_CLIENT"
)

const drainConnections = 20

// drainServer responds to requests for /first, and to those for /second and /stream after a
// line of input. Until then /stream sends data. It prints a line once every connection has
// such a request.
func drainServer() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(listener.Addr())
	var held atomic.Int64
	release := make(chan struct{})
	hold := func() {
		if held.Add(1) == drainConnections {
			fmt.Println("held")
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/first", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "done") })
	mux.HandleFunc("/second", func(w http.ResponseWriter, _ *http.Request) {
		hold()
		<-release
		fmt.Fprint(w, "done")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		b := make([]byte, 16<<10)
		_, _ = w.Write(b)
		hold()
		for {
			if _, err := w.Write(b); err != nil {
				return
			}
			select {
			case <-release:
				return
			default:
			}
		}
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	input := bufio.NewScanner(os.Stdin)
	input.Scan()
	close(release)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// drainClient runs a client on each connection and prints the number of those with a lost or
// truncated response. The environment variable has its name and the URL of the server.
func drainClient(nameAndURL string) {
	name, url, _ := strings.Cut(nameAndURL, ", ")
	request := map[string]func(url string) error{
		"Go":        func(url string) error { return fetch(url, "/first", "/second") },
		"Go stream": func(url string) error { return fetch(url, "/stream") },
		"curl": func(url string) error {
			return exec.Command("curl", "-sSf", "--no-progress-meter", url+"/first", url+"/second").Run()
		},
		"Python": func(url string) error { return exec.Command("python3", "-c", pythonPosts, url).Run() },
	}[name]
	var lost atomic.Int64
	var workers sync.WaitGroup
	for range drainConnections {
		workers.Go(func() {
			if err := request(url); err != nil {
				lost.Add(1)
			}
		})
	}
	workers.Wait()
	fmt.Println(lost.Load())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// fetch gets the paths over one connection, each directly after the one before. net/http
// retries a POST only when no byte of it was sent.
func fetch(url string, paths ...string) error {
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	for _, path := range paths {
		response, err := client.Post(url+path, "text/plain", strings.NewReader("work"))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// pythonPosts posts twice over one connection.
const pythonPosts = `
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1].removeprefix("http://"))
for path in "/first", "/second":
    c.request("POST", path, body="work")
    if c.getresponse().read() != b"done":
        sys.exit("truncated")
`

// startRole runs the test binary in one of its roles.
func startRole(t *testing.T, variable, value string) *interactive {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+value)
	return startInteractive(t, cmd)
}

// A hang-up with a drain waits for owed responses, on the client's and on the server's side.
// Requests that directly follow a response have the same time as it.
func TestPrivilegedDrain(t *testing.T) {
	need(t, "curl", "curl")
	need(t, "python3", "python3")
	nstest.Run(t, func(t *testing.T) {
		for _, direction := range []string{"outbound", "inbound"} {
			t.Run(direction+" without drain", func(t *testing.T) {
				report := hangUpPending(t, "Go", direction, false, "--linger=1m", "--receive-wait=0s")
				if !strings.Contains(report, fmt.Sprintf("%d closed", drainConnections)) {
					t.Error(report)
				}
			})
			for _, client := range []string{"Go", "curl", "Python"} {
				t.Run(direction+" "+client, func(t *testing.T) {
					hangUpPending(t, client, direction, true, "--drain-quiet=20ms", "--drain-answer=1h", "--drain-deadline=1h")
				})
			}
		}
	})
}

// A hang-up waits for the end of a message, for at most --receive-wait.
func TestPrivilegedReceiveWait(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, direction := range []string{"outbound", "inbound"} {
			t.Run(direction+" without wait", func(t *testing.T) {
				report := hangUpPending(t, "Go stream", direction, false, "--receive-wait=0s", "--linger=1s", "--output=json")
				if n := len(regexp.MustCompile("data was (arriving|unread|being sent)").FindAllString(report, -1)); n != drainConnections {
					t.Errorf("the interrupted message is reported %d times, want %d:\n%s", n, drainConnections, report)
				}
			})
			t.Run(direction, func(t *testing.T) { hangUpPending(t, "Go stream", direction, true, "--receive-wait=1h") })
		}
	})
}

// hangUpPending hangs up connections that all have a pending request and returns the report.
// If tcphup waits for the responses none is lost, otherwise all are.
func hangUpPending(t *testing.T, client, direction string, waits bool, args ...string) string {
	server := startRole(t, drainServerVariable, "yes")
	host, port, err := net.SplitHostPort(server.line())
	if err != nil {
		t.Fatal(err)
	}
	requests := startRole(t, drainClientVariable, client+", http://"+net.JoinHostPort(host, port))
	if got := server.line(); got != "held" {
		t.Fatal(got)
	}
	log := filepath.Join(t.TempDir(), "strace")
	p := startCommand(t, tracing(t, log, "sendmsg", append(args, "--direction="+direction, host, port)...))
	respond := func() {
		if _, err := io.WriteString(server.stdin, "respond\n"); err != nil {
			t.Fatal(err)
		}
	}
	if waits {
		const polls = 20 * drainConnections // without a wait, a few calls per flow
		nstest.Eventually(t, "tcphup polls the flows", func() bool { return callsIn(log) > polls || p.hasExited() })
		if p.hasExited() {
			t.Error("exited before the responses")
		}
		respond()
		if lost := requests.line(); lost != "0" {
			t.Errorf("%s requests lost, want none", lost)
		}
	} else {
		if lost := requests.line(); lost != fmt.Sprint(drainConnections) {
			t.Errorf("%s requests lost, want %d", lost, drainConnections)
		}
		respond()
	}
	if err := p.wait(); err != nil {
		t.Errorf("exit: %v\n%s", err, p.logged())
	}
	return p.logged()
}
