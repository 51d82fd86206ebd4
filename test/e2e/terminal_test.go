package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// terminal is a pseudo-terminal that records its output.
type terminal struct {
	keys *os.File // master side; writes are key presses

	mu     sync.Mutex
	screen bytes.Buffer
}

// onTerminal attaches the command to a new terminal of this size.
func onTerminal(t *testing.T, cmd *exec.Cmd, rows, columns uint16) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout = slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	s := &terminal{keys: master}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			s.mu.Lock()
			s.screen.Write(buffer[:n])
			s.mu.Unlock()
			if err != nil {
				return // EIO after the last close of the slave
			}
		}
	}()
	t.Cleanup(func() {
		_ = slave.Close()
		<-read
		_ = master.Close()
	})
	return s
}

// text returns all output so far.
func (s *terminal) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.screen.String()
}

// echoes reports whether the terminal echoes typed keys.
func (s *terminal) echoes(t *testing.T) bool {
	t.Helper()
	settings, err := unix.IoctlGetTermios(int(s.keys.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return settings.Lflag&unix.ECHO != 0
}

// finish waits for all output of an ended command and returns it.
func (s *terminal) finish(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	const end = "end of the output"
	if _, err := cmd.Stdout.(*os.File).WriteString(end); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, "all output", func() bool { return strings.HasSuffix(s.text(), end) })
	return strings.TrimSuffix(s.text(), end)
}

// shown returns the lines of a terminal in the end: a carriage return begins to overwrite.
func shown(output string) string {
	lines := strings.Split(strings.ReplaceAll(output, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.ReplaceAll(line[strings.LastIndexByte(line, '\r')+1:], "\x1b[K", "")
	}
	return strings.Join(lines, "\n")
}
