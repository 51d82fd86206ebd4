package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// terminals returns clients that are programs of a command line.
func terminals() map[string]func() (client, error) {
	return map[string]func() (client, error){
		"psql": func() (client, error) {
			return inTerminal(func(operation, number string) string { return postgres(operation, number) + ";" },
				"psql", "--no-psqlrc", "--no-readline", "--tuples-only", "--no-align", "--pset=pager=off", "--set=PROMPT1=READY> ", postgresURL()), nil
		},
		"mariadb": func() (client, error) {
			return inTerminal(func(operation, number string) string { return mariadb(operation, number) + ";" },
				"mariadb", "--no-defaults", "--prompt=READY> ", "--silent", "--host="+server, "--user=app", "--password=app", "app"), nil
		},
		"redis-cli": func() (client, error) {
			return inTerminal(func(operation, number string) string {
				switch operation {
				case slow:
					return "BLPOP slow" + number + " 0"
				case work:
					return "BLPOP none 2"
				}
				return "SET k v"
			}, "redis-cli", "-h", server), nil
		},
		"curl": func() (client, error) {
			return func(_ context.Context, operation, number string) (int, error) {
				out, err := exec.Command("curl", "--silent", "--show-error", "--fail", fmt.Sprintf("http://%s/%s?number=%s", server, operation, number)).Output()
				return len(out), withOutput(err)
			}, nil
		},
		"ssh": sshClient,
	}
}

// withOutput adds the standard error of a program.
func withOutput(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}

var (
	prompt = regexp.MustCompile(`(READY|[0-9.]+:[0-9]+|not connected)> $`)
	result = regexp.MustCompile(`done|<row>|OK|1\) "slow|\(nil\)`)
	failed = regexp.MustCompile(`ERROR|FATAL|Error|Could not connect|lost`)
)

// inTerminal returns a client that types the text of each operation into a program. The
// operation has failed if the last thing that the program writes is an error.
func inTerminal(text func(operation, number string) string, command ...string) client {
	var terminal *os.File
	return func(_ context.Context, operation, number string) (int, error) {
		if terminal == nil {
			var err error
			if terminal, err = start(command); err != nil {
				return 0, err
			}
			if out, err := untilPrompt(terminal); err != nil {
				return 0, fmt.Errorf("%w: %s", err, out)
			}
		}
		if _, err := terminal.WriteString(text(operation, number) + "\n"); err != nil {
			return 0, err
		}
		out, err := untilPrompt(terminal)
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
		out = strings.ReplaceAll(out, strings.Repeat("x", 10_000), "<row>")
		results, failures := result.FindAllStringIndex(out, -1), failed.FindAllStringIndex(out, -1)
		if len(results) == 0 || len(failures) > 0 && failures[len(failures)-1][0] > results[len(results)-1][0] {
			return 0, errors.New(strings.TrimSpace(prompt.ReplaceAllString(out, "")))
		}
		return len(results), nil
	}
}

// start starts a program in a terminal without echo.
func start(command []string) (*os.File, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	settings, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	settings.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, settings); err != nil {
		return nil, err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "TERM=dumb")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return master, cmd.Start()
}

// untilPrompt returns the output of the program up to its prompt.
func untilPrompt(terminal *os.File) (string, error) {
	var out strings.Builder
	for buffer := make([]byte, 65536); ; {
		n, err := terminal.Read(buffer)
		out.Write(buffer[:n])
		if err != nil {
			return out.String(), fmt.Errorf("program ended: %w", err)
		}
		if prompt.MatchString(out.String()) {
			return out.String(), nil
		}
	}
}

// sshClient returns a client that runs commands over one connection (ControlMaster).
func sshClient() (client, error) {
	arguments := []string{"-F", "none", "-i", os.Getenv("SSH_KEY"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "ControlMaster=auto", "-o", "ControlPath=" + os.Getenv("WORK") + "/ssh", "-o", "ControlPersist=yes", "-p", "2222", "root@" + server}
	return func(_ context.Context, operation, number string) (int, error) {
		marker := os.Getenv("WORK") + "/ssh-" + number
		command := "echo done"
		switch operation {
		case slow:
			command = "mkdir " + marker + " && sleep 600; echo done"
		case half:
			command = "head -c 100000 /dev/zero; mkdir " + marker + " && sleep 600; head -c 100000 /dev/zero"
		}
		// A master in the background keeps standard error open.
		cmd := exec.Command("ssh", append(arguments, command)...)
		out, err := cmd.Output()
		return len(out), withOutput(err)
	}, nil
}
