package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// TestPrivilegedBench checks the printed and the written report, the list of skipped
// programs, and that docs/benchmarks.md has the same form.
func TestPrivilegedBench(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		bench, docs := build(t, "bench"), t.TempDir()
		parts := filepath.Join(docs, "parts.txt")
		if err := os.WriteFile(parts, []byte("goos: linux\nBenchmarkPart/of-it \t 100\t 12.5 ns/op\nPASS\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		command := func(args ...string) *exec.Cmd {
			return exec.CommandContext(t.Context(), bench, append([]string{"-tcphup=" + program.Path(t), "-sockets=1000", "-rounds=2", "-alerts=3"}, args...)...)
		}
		cmd := command("-docs="+docs, "-parts="+parts)
		var progress strings.Builder
		cmd.Stderr = &progress
		printed, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, progress.String())
		}
		t.Log(string(printed))
		read := func(path string) string {
			t.Helper()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		page := read(filepath.Join(docs, "benchmarks.md"))
		if page != string(printed) {
			t.Error("written and printed report differ")
		}

		// A figure is a median; a spread has its minimum and maximum.
		const figure, spread = `\d+(\.\d+)?`, `\d+(\.\d+)? \(\d+(\.\d+)?–\d+(\.\d+)?\)`
		wants := []string{
			`1,000 \| 20 \|( ` + spread + ` \|){4}`,
			`1,000 \| IPv4 \| \*\*` + figure + `\*\* \| ` + figure + ` \| ` + spread + ` \| ` + spread,
			`1,000 \| IPv4-mapped \| \*\*` + figure,
			`1,000 \| 100 \| \*\*` + figure + `\*\* \| ` + figure + ` \| ` + figure + ` \|`,
			"1,000 \\| `tcphup HOST PORT` \\| " + spread + ` \| ` + figure,
			"1,000 \\| `tcphup --method=destroy` \\| " + spread,
			"1,000 \\| `ss -K` \\| " + spread,
			"1,000 \\| `ss -tnp` \\| " + spread + ` \| 1.00`,
			"1,000 \\| default \\| `tcphup serve` \\| 3 \\| " + figure,
			"1,000 \\| handled \\| `tcphup serve` \\| 3 \\| " + figure + ` \| ` + figure,
			"1,000 \\| handled \\| `ss -K` \\| 3 \\| " + figure,
			`10 pods × 50 sockets \| no \| ` + spread + ` \| ` + spread + ` \| ` + figure + ` \| \*\*` + figure + `\*\* \| ` + spread + ` \| ` + figure + ` \|`,
			`10 pods × 50 sockets, every tenth pod 1,000 \| no \|`,
			`10 pods × 100 sockets \| yes \|`,
			`10 pods × 50 sockets \| a sidecar in each namespace \| ` + spread + ` \| ` + figure + ` \|`,
			`10 pods × 50 sockets \| scrapes one after the other \| [1-9][0-9,]* \| ` + figure,
			`resident ≤ 20 MB: 1,000 sockets, 20 destinations \| ` + figure + ` MB \| (met|\*\*missed\*\*)`,
			`BenchmarkPart/of-it`,
		}
		series := []string{"tcphup's scrape", "floor", "ss -tain"}
		const exporter = "node_exporter"
		if _, err := exec.LookPath("prometheus-node-exporter"); err == nil {
			series = append(series, exporter)
		} else {
			wants = append(wants, `Skipped: node_exporter: prometheus-node-exporter not found; .*apt-get install`)
		}
		for _, want := range wants {
			if !regexp.MustCompile(want).MatchString(page) {
				t.Errorf("report does not match %s", want)
			}
		}
		figures := read(filepath.Join(docs, "benchmarks.csv"))
		for _, name := range series {
			if !regexp.MustCompile(`(?m)^` + name + `,1000,[0-9.]+,[0-9.]+$`).MatchString(figures) {
				t.Errorf("no series %s: %s", name, figures)
			}
		}
		shipped := read("../../docs/benchmarks.md")
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "#") && !strings.Contains(shipped, line) {
				t.Errorf("docs/benchmarks.md has no %q: run make bench", line)
			}
		}

		without := command()
		without.Env = append(os.Environ(), "PATH=/nowhere")
		if out, err := without.CombinedOutput(); err == nil || !strings.Contains(string(out), "bench: missing programs: ip ss (") {
			t.Errorf("without programs: %v, %s", err, out)
		}
		other := command()
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		other.Dir = filepath.Dir(bench)
		if out, err := other.CombinedOutput(); err == nil || !strings.Contains(string(out), "bench: must run as root") {
			t.Errorf("not root: %v, %s", err, out)
		}
		if left := processes(t); len(left) > 0 {
			t.Errorf("processes still running: %q", left)
		}
	})
}
