package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"tcphup/test/kernels/plan"
)

// emulator returns the command that boots a kernel in a virtual machine without KVM, and
// copies its console to standard output.
func emulator(arch, kernelFile, initramfs string) ([]string, error) {
	var args []string
	var console string
	switch arch {
	case "amd64":
		args, console = []string{"qemu-system-x86_64", "-machine", "q35", "-cpu", "max"}, "ttyS0"
	case "arm64":
		args, console = []string{"qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72"}, "ttyAMA0"
	default:
		return nil, fmt.Errorf("no emulator for %s", arch)
	}
	return append(args, "-accel", "tcg", "-m", "1024", "-smp", "1", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", kernelFile, "-initrd", initramfs,
		// The machine ends with a panic. Only init writes to the console.
		"-append", "console="+console+" panic=-1 quiet loglevel=1 mitigations=off"), nil
}

// boot runs a virtual machine until it turns itself off and returns its results. The log gets
// its console.
func boot(ctx context.Context, args []string, limit time.Duration, log io.Writer) (*results, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not finished after %s", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	console, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r, parseErr := parseConsole(io.TeeReader(console, log))
	err = cmd.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return r, errors.Join(err, parseErr)
}

// results are the reports of a virtual machine.
type results struct {
	kernel string
	cells  map[string]string // by row of the table
}

var (
	failedTest  = regexp.MustCompile(`^--- FAIL: (\S+)`)
	skippedTest = regexp.MustCompile(`^--- SKIP: (\S+)`)
	startedTest = regexp.MustCompile(`^=== RUN   [^/]+$`)
)

// parseConsole reads the console of a virtual machine to its end.
func parseConsole(console io.Reader) (*results, error) {
	r := &results{cells: make(map[string]string)}
	done := false
	var failed, skipped []string
	noMPTCP, skippedMPTCP := false, false // in the output of this test, of a skipped test
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		switch {
		case strings.HasPrefix(line, plan.Kernel):
			r.kernel = strings.TrimPrefix(line, plan.Kernel)
		case strings.HasPrefix(line, plan.Begin):
			failed, skipped, skippedMPTCP = nil, nil, false
		case strings.HasPrefix(line, plan.End):
			name, status, _ := strings.Cut(strings.TrimPrefix(line, plan.End), ": ")
			r.cells[name] = summary(status, failed, skipped, skippedMPTCP)
		case strings.HasPrefix(line, plan.Failed):
			return r, errors.New("init: " + strings.TrimPrefix(line, plan.Failed))
		case line == plan.Done:
			done = true
		case startedTest.MatchString(line):
			noMPTCP = false
		case strings.Contains(line, "kernel without MPTCP"):
			noMPTCP = true
		case failedTest.MatchString(line):
			failed = append(failed, failedTest.FindStringSubmatch(line)[1])
		case skippedTest.MatchString(line) && noMPTCP:
			skippedMPTCP = true
		case skippedTest.MatchString(line):
			skipped = append(skipped, skippedTest.FindStringSubmatch(line)[1])
		default:
			if _, cell, ok := strings.Cut(line, plan.Cell); ok {
				name, text, _ := strings.Cut(cell, ": ")
				r.cells[name] = text
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if !done {
		return r, errors.New("virtual machine ended before its last step")
	}
	return r, nil
}

// summary returns the cell of a step.
func summary(status string, failed, skipped []string, skippedMPTCP bool) string {
	switch {
	case len(failed) > 0:
		return "failed: " + strings.Join(failed, ", ")
	case status != "ok":
		return "failed: " + status
	}
	cell := "passed"
	if skippedMPTCP {
		cell += " without MPTCP"
	}
	if len(skipped) > 0 {
		slices.Sort(skipped)
		cell += "; skipped: " + strings.Join(skipped, ", ")
	}
	return cell
}
