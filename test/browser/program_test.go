package browser_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// Addresses of tcphup in the network namespace of a test.
const (
	tcphupAddress   = "127.0.0.1:10471"
	receiverAddress = "127.0.0.1:10472"
)

const token = "a-token-for-the-test-of-the-page"

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdout = t.Output()
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	return cmd
}

// serve runs tcphup serve on all addresses and waits until it is ready.
func serve(t *testing.T, args ...string) {
	t.Helper()
	start(t, program.Path(t), append([]string{"serve", "--web.listen-address=:10471"}, args...)...)
	nstest.Eventually(t, "tcphup is ready", func() bool {
		_, err := request(t, http.MethodGet, "http://"+tcphupAddress+"/-/ready", "")
		return err == nil
	})
}

// request returns the body of the response, and an error for any status but 200.
func request(t *testing.T, method, url, body string) (string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: nstest.HangGuard}
	response, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("%s %s: %s: %s", method, url, response.Status, content))
	}
	return string(content), err
}

// post sends a body to the alert receiver with the token and returns the response.
func post(t *testing.T, path, body string) string {
	t.Helper()
	response, err := request(t, http.MethodPost, "http://"+receiverAddress+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// awaitSample waits until /metrics contains the line.
func awaitSample(t *testing.T, line string) {
	t.Helper()
	nstest.Eventually(t, line, func() bool {
		metrics, err := request(t, http.MethodGet, "http://"+tcphupAddress+"/metrics", "")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(metrics, "\n"+line+"\n")
	})
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
