package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// TestPrivilegedReadme runs the README's first steps verbatim.
func TestPrivilegedReadme(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		need(t, "python3", "python3")
		need(t, "curl", "curl")
		readme, err := os.ReadFile("../../README.md")
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
		if len(blocks) < 3 {
			t.Fatalf("README has %d command blocks, want at least 3", len(blocks))
		}
		connect, post := blocks[1][1], blocks[2][1]

		// Like `make run`.
		dir := t.TempDir()
		t.Chdir(dir)
		if err := os.WriteFile("tcphup.token", []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		startProcess(t, program.Path(t), "serve", "--web.listen-address="+tcphupAddress,
			"--alerts.listen-address="+receiverAddress, "--alerts.token-file=tcphup.token")
		awaitPage(t, "http://"+tcphupAddress+"/-/ready")

		client := startCommand(t, exec.Command("bash", "-c", connect+"\nwait %2\nkill %1"))
		nstest.Eventually(t, "the connection is established", func() bool {
			return strings.Count(nstest.Command(t, "ss", "-Htn", "state", "established", "dport", "=", "8000"), "\n") == 1
		})
		r := runProgram(t, nil, "bash", "-c", post)
		r.mustExit(t, 0)
		answer := strings.TrimSpace(r.stdout)
		if answer == "" || !strings.Contains(string(readme), "`"+answer+"`") {
			t.Errorf("response %s is not in the README", answer)
		}
		<-client.exited
		log, err := os.ReadFile(client.log)
		if err != nil || !strings.Contains(string(log), "read b''") {
			t.Errorf("client: %q, %v", log, err)
		}
	})
}
