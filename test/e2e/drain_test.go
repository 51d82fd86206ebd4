package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
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

// drainServer answers each request after a while, until its input ends.
func drainServer() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(listener.Addr())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(30+rand.IntN(60)) * time.Millisecond)
		fmt.Fprint(w, "done")
	})}
	go func() { _ = server.Serve(listener) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// drainClient keeps connections alive and posts over each, with pauses, until its
// input ends. It never repeats a request: one that fails is lost. It says when
// it is well under way, and in the end what it has counted.
func drainClient(url string) {
	var done, lost atomic.Int64
	var workers sync.WaitGroup
	stop := make(chan struct{})
	for range drainConnections {
		workers.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
			post := func() {
				// net/http repeats a POST of which nothing was sent, and no other.
				response, err := client.Post(url, "text/plain", strings.NewReader("work"))
				if err == nil {
					_, err = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
				if err != nil {
					lost.Add(1)
					return
				}
				// By now the connections are out of step with each other.
				if done.Add(1) == 4*drainConnections {
					fmt.Println("busy")
				}
			}
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(60+rand.IntN(120)) * time.Millisecond):
					post()
				}
			}
		})
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	close(stop)
	workers.Wait()
	fmt.Println(done.Load(), lost.Load())
}

// startRole runs the test binary in one of its roles.
func startRole(t *testing.T, variable, value string) *partner {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+value)
	return startPartner(t, cmd)
}

// Requests that are under way are not cut. On the side that asks, drain loses none
// where an immediate hang-up loses some. On the side that answers it loses fewer:
// a request that crosses the FIN on its way is lost, as it is when a server closes
// an idle connection by itself.
func TestPrivilegedDrain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, direction := range []string{"outbound", "inbound"} {
			without := loseRequests(t, direction)
			with := loseRequests(t, direction, "--drain-quiet=20ms", "--drain-deadline=1m")
			t.Logf("%s: %d requests lost without drain, %d with", direction, without, with)
			if without == 0 || with >= without || direction == "outbound" && with != 0 {
				t.Errorf("%s: %d requests lost without drain, %d with", direction, without, with)
			}
		}
	})
}

// loseRequests hangs every connection up under load and returns how many requests
// that cost.
func loseRequests(t *testing.T, direction string, flags ...string) int {
	t.Helper()
	server := startRole(t, drainServerVariable, "yes")
	host, port, err := net.SplitHostPort(server.line())
	if err != nil {
		t.Fatal(err)
	}
	client := startRole(t, drainClientVariable, "http://"+net.JoinHostPort(host, port))
	if got := client.line(); got != "busy" {
		t.Fatal(got)
	}
	r := tcphup(t, append(flags, "--direction="+direction, host, port)...)
	r.mustExit(t, 0)
	if !strings.Contains(r.stderr, fmt.Sprintf("%d closed", drainConnections)) {
		t.Errorf("%s %v: %s", direction, flags, r.stderr)
	}
	if err := client.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	done, lost, _ := strings.Cut(client.line(), " ")
	n, err := strconv.Atoi(lost)
	if err != nil || done == "0" {
		t.Fatalf("%s requests done, %s lost: %v", done, lost, err)
	}
	return n
}
