// Inside is the init process of the virtual machines of make kernels: it mounts file systems,
// runs the steps of the plan and turns the machine off.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kernels/plan"
	"tcphup/test/kit/netns"
)

// openFiles is a common hard limit of open files.
const openFiles = 20_000

func main() {
	if err := run(); err != nil {
		fmt.Println(plan.Failed + err.Error())
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println(plan.Failed + "power off: " + err.Error())
	}
}

func run() error {
	if os.Getpid() != 1 {
		return errors.New("runs as process 1 of a virtual machine only: see make kernels")
	}
	if err := mount(); err != nil {
		return err
	}
	// Some tests open many descriptors without the right to raise the limit.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: openFiles, Max: openFiles}); err != nil {
		return fmt.Errorf("raise limit of open files: %w", err)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	fmt.Println(plan.Kernel + unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Version[:]))
	text, err := os.ReadFile(plan.Path)
	if err != nil {
		return err
	}
	var steps []plan.Step
	if err := json.Unmarshal(text, &steps); err != nil {
		return err
	}
	for _, s := range steps {
		fmt.Println(plan.Begin + s.Name)
		status := "ok"
		if err := runStep(s); err != nil {
			status = err.Error()
		}
		fmt.Println(plan.End + s.Name + ": " + status)
	}
	fmt.Println(plan.Done)
	return nil
}

// mount mounts the file systems that tests use, and brings the loopback device up.
func mount() error {
	for _, m := range []struct{ kind, path, data string }{
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/run", "mode=755"},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := unix.Mount(m.kind, m.path, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	// Unless FUSE is part of the kernel, the first process that opens it loads the module.
	err := unix.Mknod("/dev/fuse", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229)))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make /dev/fuse: %w", err)
	}
	return netns.Prepare()
}

func runStep(s plan.Step) error {
	limit := time.Duration(s.Seconds) * time.Second
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, fmt.Errorf("not finished after %s", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Args[0], s.Args[1:]...)
	cmd.Dir = s.Dir
	cmd.Env = append([]string{"PATH=/bin:/sbin", "HOME=/root", "TMPDIR=/tmp"}, s.Environment...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
