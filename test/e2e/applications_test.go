package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

// TestPrivilegedCurl checks that curl, waiting for a response, treats a hang-up like a close
// by the server.
func TestPrivilegedCurl(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		curl := need(t, "curl", "curl")
		server := testapp.Serve(t, testapp.ServerConfig{Address: "127.0.0.1:0"})
		done := make(chan result, 1)
		go func() {
			done <- runProgram(t, nil, curl, "--silent", "--show-error", "http://"+server.Addr().String()+"/slow")
		}()
		nstest.Eventually(t, "curl waits for a response", func() bool {
			out := nstest.Command(t, "ss", "-Htn", "state", "established", "dport", "=", strconv.Itoa(int(server.Addr().Port())))
			return server.Accepted() == 1 && strings.Contains(out, server.Addr().String())
		})
		tcphup(t, "127.0.0.1", strconv.Itoa(int(server.Addr().Port()))).mustExit(t, 0)
		r := <-done
		const emptyReply = 52 // CURLE_GOT_NOTHING
		if r.exit != emptyReply || !strings.Contains(r.stderr, "Empty reply from server") {
			t.Errorf("curl: exit code %d, %s", r.exit, r.stderr)
		}
	})
}

// goClientVariable makes the test binary a Go HTTP client for the URL in its value.
const goClientVariable = "TCPHUP_E2E_GO_CLIENT"

// goClient requests the URL for each line of input and prints the status.
func goClient(url string) {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		response, err := http.Get(url)
		if err != nil {
			fmt.Println(err)
			continue
		}
		body, err := io.ReadAll(response.Body)
		fmt.Println(response.StatusCode, string(body), err)
		_ = response.Body.Close()
	}
}

// goClientCommand returns a command that runs goClient.
func goClientCommand(host, port string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), goClientVariable+"=http://"+net.JoinHostPort(host, port))
	return cmd
}

// pythonClient does the same with http.client. As its documentation recommends, it reconnects
// once after the server has closed the connection.
const pythonClient = `
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]))
for line in sys.stdin:
    for attempt in (1, 2):
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            print(response.status, response.read().decode(), "<nil>", flush=True)
            break
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            if attempt == 2:
                print(error, flush=True)
            connection.close()
`

// TestPrivilegedKeepAliveClients checks that clients with a keep-alive connection reconnect
// without an error.
func TestPrivilegedKeepAliveClients(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		python := need(t, "python3", "python3")
		for _, tt := range []struct {
			name    string
			command func(host, port string) *exec.Cmd
		}{
			{name: "python", command: func(host, port string) *exec.Cmd {
				return exec.Command(python, "-c", pythonClient, host, port)
			}},
			{name: "go", command: goClientCommand},
		} {
			t.Run(tt.name, func(t *testing.T) {
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				// The response identifies the connection.
				server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					fmt.Fprint(w, r.RemoteAddr)
				})}
				go func() { _ = server.Serve(listener) }()
				t.Cleanup(func() { _ = server.Shutdown(context.WithoutCancel(t.Context())) })
				host, port, err := net.SplitHostPort(listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}

				ask := startClient(t, tt.command(host, port))
				first := ask()
				if again := ask(); first != again || !strings.HasPrefix(first, "200 127.0.0.1:") {
					t.Fatalf("the client does not keep its connection: %q, then %q", first, again)
				}
				r := tcphup(t, host, port)
				r.mustExit(t, 0)
				if !strings.Contains(r.stderr, "1 closed") {
					t.Fatalf("stderr: %s", r.stderr)
				}
				next := ask()
				if !strings.HasPrefix(next, "200 127.0.0.1:") || next == first {
					t.Errorf("request after the hang-up: %q, before: %q", next, first)
				}
			})
		}
	})
}

// startClient starts a client and returns a function that makes it send one request.
func startClient(t *testing.T, cmd *exec.Cmd) func() string {
	t.Helper()
	p := startInteractive(t, cmd)
	return func() string {
		t.Helper()
		if _, err := io.WriteString(p.stdin, "\n"); err != nil {
			t.Fatal(err)
		}
		return p.line()
	}
}
