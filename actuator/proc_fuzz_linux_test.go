package actuator

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
)

// statusText returns the start of /proc/PID/status in the kernel's format.
func statusText(name string, groups int, ignored, caught uint64) string {
	name = strings.NewReplacer("\n", `\n`, `\`, `\\`).Replace(name)
	return fmt.Sprintf("Name:\t%s\nUmask:\t0022\nGroups:\t%s\n", name, strings.Repeat("4294967294 ", groups)) +
		fmt.Sprintf("SigPnd:\t%016x\nSigBlk:\t%016x\n", ^caught, ^ignored) +
		fmt.Sprintf("SigIgn:\t%016x\nSigCgt:\t%016x\nCapInh:\t0000000000000000\n", ignored, caught)
}

const sigpipe = 1 << (unix.SIGPIPE - 1)

// FuzzSIGPIPE parses statuses in the kernel's format and arbitrary text. A process is
// safe only if SIGPIPE is in one of the two masks.
func FuzzSIGPIPE(f *testing.F) {
	files, err := filepath.Glob("testdata/status-*.txt")
	if err != nil || len(files) == 0 {
		f.Fatalf("no captures: %v", err)
	}
	for _, name := range files {
		status, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(status, "app", uint16(0), uint64(0), uint64(sigpipe))
	}
	f.Add([]byte("SigIgn:\t1000\nSigIgn:\t1000\n"), "a\nSigCgt:\t1000", uint16(7000), uint64(sigpipe), uint64(0))
	f.Add([]byte("SigCgt:\t1000\nSigIgn:\t-1000\n"), `a\`, uint16(1), ^uint64(sigpipe), ^uint64(sigpipe))
	f.Fuzz(func(t *testing.T, status []byte, name string, groups uint16, ignored, caught uint64) {
		kills, err := parseSIGPIPE([]byte(statusText(name, int(groups)%10_000, ignored, caught)))
		if want := ignored&sigpipe == 0 && caught&sigpipe == 0; kills != want || err != nil {
			t.Errorf("SigIgn %x, SigCgt %x, %d groups: kills %t, %v; want %t", ignored, caught, groups, kills, err, want)
		}

		if kills, err = parseSIGPIPE(status); err != nil {
			return
		}
		safe := false
		for _, field := range []string{"SigIgn:", "SigCgt:"} {
			lines := slices.DeleteFunc(strings.Split(string(status), "\n"), func(line string) bool { return !strings.HasPrefix(line, field) })
			if len(lines) != 1 {
				t.Fatalf("accepted with %d lines of %s", len(lines), field)
			}
			mask, ok := new(big.Int).SetString(strings.TrimSpace(lines[0][len(field):]), 16)
			if !ok || mask.Sign() < 0 || mask.BitLen() > 64 {
				t.Fatalf("accepted %q", lines[0])
			}
			safe = safe || mask.Bit(int(unix.SIGPIPE)-1) == 1
		}
		if kills == safe {
			t.Errorf("kills %t, and one of the masks has SIGPIPE: %t", kills, safe)
		}
	})
}

// The SIGPIPE disposition of a process in NGROUPS_MAX groups is read correctly.
func TestPrivilegedManyGroups(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const most = 1 << 16 // NGROUPS_MAX
		groups := make([]uint32, most)
		for i := range groups {
			groups[i] = 1<<31 + uint32(i)
		}
		cmd := exec.CommandContext(t.Context(), "env", "--ignore-signal=PIPE", "sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: groups}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		nstest.Eventually(t, "env has become sleep", func() bool { return commandOf(cmd.Process.Pid) == "sleep" })
		if kills, err := sigpipeKills(cmd.Process.Pid); kills || err != nil {
			t.Errorf("the process ignores SIGPIPE, but sigpipeKills is true: %v", err)
		}
	})
}

// dirent returns a struct linux_dirent64 with the name.
func dirent(name []byte) []byte {
	size := (19 + len(name) + 1 + 7) &^ 7
	b := make([]byte, size)
	binary.NativeEndian.PutUint64(b, 1<<40)
	binary.NativeEndian.PutUint64(b[8:], ^uint64(0))
	binary.NativeEndian.PutUint16(b[16:], uint16(size))
	b[18] = unix.DT_LNK
	copy(b[19:], name)
	return b
}

// FuzzDescriptors parses directories, numbers and links in the kernel's format, and
// arbitrary bytes.
func FuzzDescriptors(f *testing.F) {
	directory, err := os.ReadFile("testdata/dirents-fd.bin")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(1), []byte(".\x00..\x000\x00255"), directory)
	for _, text := range []string{
		"socket:[4294967295]", "socket:[0004294967297]", "socket:[]", "socket:[+1]", "pipe:[1]", "/socket:[1]", "socket:[1]]",
		"4194304", "2147483648", "18446744073709551617", "00001", "1x", "-1",
	} {
		f.Add(uint32(1<<32-1), []byte(text), []byte(text))
	}
	f.Fuzz(func(t *testing.T, inode uint32, names, text []byte) {
		var want, got, listing [][]byte
		for _, name := range bytes.Split(names, []byte{0}) {
			if len(name) > 0 && len(name) <= 255 { // NAME_MAX
				want, listing = append(want, name), append(listing, dirent(name))
			}
		}
		for rest := bytes.Join(listing, nil); len(rest) > 0; {
			var name []byte
			if name, rest = nextDirent(rest); name != nil {
				got = append(got, name)
			}
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("a directory with %q was read as %q", want, got)
		}
		for rest := text; len(rest) > 0; {
			name, next := nextDirent(rest)
			if len(next) >= len(rest) {
				t.Fatalf("%q: no bytes consumed", rest)
			}
			// readlinkat(2) needs the NUL.
			if name != nil && !bytes.Contains(rest[:len(rest)-len(next)], append(slices.Clip(name), 0)) {
				t.Errorf("%q: the name %q does not end with a NUL", rest, name)
			}
			rest = next
		}

		if got := parseSocketLink(fmt.Appendf(nil, "socket:[%d]", inode)); got != inode {
			t.Errorf("inode %d was read as %d", inode, got)
		}
		if got := parseSocketLink(text); got != 0 {
			digits, ok := strings.CutPrefix(string(text), "socket:[")
			if digits = strings.TrimLeft(digits, "0"); !ok || digits != strconv.FormatUint(uint64(got), 10)+"]" {
				t.Errorf("%q was read as inode %d", text, got)
			}
		}
		pid := inode >> 1
		if got := atoi(strconv.AppendUint(nil, uint64(pid), 10)); got != int(pid) {
			t.Errorf("%d was read as %d", pid, got)
		}
		if got := atoi(text); got > 0 && strings.TrimLeft(string(text), "0") != strconv.Itoa(got) {
			t.Errorf("%q was read as %d", text, got)
		}
	})
}

func TestReleaseAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"6.11.0": true, "6.12.9-amd64": true, "6.11-rc1": true, "7.0.0": true, "10.1": true,
		"6.1.0-18-amd64": false, "6.2.16": false, "6.10.99": false, "5.15.0-1234-azure": false, "6": false, "": false, "v6.11": false,
	} {
		if got := releaseAtLeast6(release, 11); got != want {
			t.Errorf("%q: %t, want %t", release, got, want)
		}
	}
}
