package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

const readmePath = "../../README.md"

// notRun are the README's command blocks, by their first word, that no test here runs.
var notRun = map[string]string{
	"go":   "the compiler runs in every test",
	"make": "make test runs this test; make run needs the ports of the host",
}

// readmeBlocks returns the README and its fenced blocks of a language.
func readmeBlocks(t *testing.T, language string) (readme string, blocks []string) {
	t.Helper()
	text, err := os.ReadFile(readmePath)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	return string(text), blocks
}

// readmeBlock returns the only block of shell commands that begins with prefix.
func readmeBlock(t *testing.T, prefix string) string {
	t.Helper()
	var found []string
	_, blocks := readmeBlocks(t, "sh")
	for _, block := range blocks {
		if strings.HasPrefix(block, prefix) {
			found = append(found, block)
		}
	}
	if len(found) != 1 {
		t.Fatalf("README has %d command blocks that begin with %q, want 1", len(found), prefix)
	}
	return found[0]
}

// Each block of the README is run by a test below, or notRun has the reason why not.
func TestReadmeBlocks(t *testing.T) {
	run := []string{"curl -sS http://", "curl -sS -H", "tcphup 10.20.0.5 5432", "tcphup serve"}
	_, blocks := readmeBlocks(t, "sh")
	for _, block := range blocks {
		first, _, _ := strings.Cut(block, " ")
		known := notRun[first] != ""
		for _, prefix := range run {
			known = known || strings.HasPrefix(block, prefix)
		}
		if !known {
			t.Errorf("no test runs the block:\n%s", block)
		}
	}
	if text, _ := readmeBlocks(t, "sh"); strings.Count(text, "\n") > 150 {
		t.Errorf("README has %d lines, want at most 150", strings.Count(text, "\n"))
	}
}

// TestPrivilegedReadme runs the README's first steps verbatim.
func TestPrivilegedReadme(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		need(t, "python3", "python3")
		need(t, "curl", "curl")
		readme, _ := readmeBlocks(t, "sh")
		connect, post := readmeBlock(t, "curl -sS http://"), readmeBlock(t, "curl -sS -H")

		// Like `make run`.
		dir := t.TempDir()
		t.Chdir(dir)
		writeToken(t, dir)
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
		if answer == "" || !strings.Contains(readme, "`"+answer+"`") {
			t.Errorf("response %s is not in the README", answer)
		}
		<-client.exited
		log, err := os.ReadFile(client.log)
		if err != nil || !strings.Contains(string(log), "read b''") {
			t.Errorf("client: %q, %v", log, err)
		}
	})
}

// writeToken writes the file tcphup.token of the README.
func writeToken(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "tcphup.token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// hangupExamples returns the commands at the top of docs/hangup.md, without those that run until
// the user ends them.
func hangupExamples(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/hangup.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```sh\n")
	block, _, _ = strings.Cut(block, "\n```")
	return slices.DeleteFunc(strings.Split(block, "\n"), func(line string) bool { return strings.Contains(line, "--watch") })
}

// TestPrivilegedReadmeExamples runs the commands of the README for a host and of docs/hangup.md,
// and expects exit code 0, with the server of the README beside them.
func TestPrivilegedReadmeExamples(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		s := newSite(t)
		serve, examples := readmeBlock(t, "tcphup serve"), readmeBlock(t, "tcphup 10.20.0.5 5432")
		nstest.Command(t, "mount", "-t", "tmpfs", "tmpfs", "/var/lib")
		dir := t.TempDir()
		writeToken(t, dir)
		environment := append(os.Environ(), "PATH="+filepath.Dir(program.Path(t))+":"+os.Getenv("PATH"))
		server := exec.Command("bash", "-c", "exec "+serve)
		server.Dir, server.Env = dir, environment
		p := startCommand(t, server)
		nstest.Eventually(t, "the service is resolved", func() bool {
			select {
			case <-p.exited:
				t.Fatalf("server: %s", p.logged())
			default:
			}
			_, err := os.Stat("/var/lib/tcphup/services.json")
			return err == nil
		})
		lines, more := strings.Split(strings.TrimSpace(examples), "\n"), hangupExamples(t)
		if len(lines) < 5 || len(more) < 5 {
			t.Fatalf("README has %d examples, docs/hangup.md %d", len(lines), len(more))
		}
		for _, line := range append(lines, more...) {
			s.pools()
			cmd := exec.Command("bash", "-c", line)
			cmd.Env = environment
			out, err := cmd.CombinedOutput()
			t.Logf("$ %s\n%s", line, out)
			if err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			s.disconnect()
		}
	})
}

// pool is an application with three connections to the old address and two to the new one. It
// reconnects to the name after EOF.
const pool = `
import select, socket, time
def connect(host):
    return socket.create_connection((host, 5432))
connections = [connect("10.20.0.5") for _ in range(3)]
time.sleep(0.2) # the idle times differ
connections += [connect("10.30.0.5") for _ in range(2)]
print("connected", flush=True)
while True:
    for c in select.select(connections, [], [])[0]:
        if not c.recv(100):
            connections.remove(c)
            c.close()
            connections.append(connect("db.internal"))
`

// minutes are the idle times of the README.
var minutes = regexp.MustCompile(`(\d)m\b`)

// TestPrivilegedReadmeTranscript runs the commands of the README's transcript and compares the
// output. -update rewrites it, after the connections were idle for some minutes.
func TestPrivilegedReadmeTranscript(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		tr := &transcript{site: newSite(t), view: view{"README", 80, false}, rows: 24}
		app := startCommand(t, exec.Command(need(t, "python3", "python3"), "-c", pool))
		nstest.Eventually(t, "the application is connected", func() bool { return strings.Contains(app.logged(), "connected") })
		if *update {
			time.Sleep(3 * time.Minute) // the transcript shows a long idle time
		}
		tr.awaitIdle()
		readme, blocks := readmeBlocks(t, "console")
		if len(blocks) != 1 {
			t.Fatalf("README has %d transcripts, want 1", len(blocks))
		}
		shown := &transcript{site: tr.site, view: tr.view}
		var raw strings.Builder
		for session := range strings.SplitSeq(strings.TrimPrefix(blocks[0], "$ tcphup "), "\n$ tcphup ") {
			command, output, _ := strings.Cut(session, "\n")
			args := strings.Fields(command)
			fmt.Fprintf(&raw, "$ tcphup %s\n%s", command, tr.run(args...))
			shown.add(args, strings.TrimSuffix(minutes.ReplaceAllString(output, "${1}s"), "\n")+"\n")
		}
		if *update {
			readme = strings.Replace(readme, blocks[0], raw.String(), 1)
			if err := os.WriteFile(readmePath, []byte(readme), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		if diff := cmp.Diff(strings.Split(shown.text.String(), "\n"), strings.Split(tr.text.String(), "\n")); diff != "" {
			t.Errorf("-update rewrites it (-want +got):\n%s", diff)
		}
	})
}
