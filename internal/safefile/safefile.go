// Package safefile reads files that decide what is done: configuration,
// credentials, state. Whoever may write to such a file, or may put another one in
// its place, decides as well.
package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrUnsafe is what errors answer errors.Is with that are about a file which
// others may change.
var ErrUnsafe = errors.New("refused")

// everyone is the right of every user to write.
const everyone = 0o002

// Read returns what a regular file of at most limit bytes holds. It refuses what
// Check refuses; that a file does not exist can be told by errors.Is with
// fs.ErrNotExist.
func Read(path string, limit int64) ([]byte, error) {
	// Without O_NONBLOCK the open of a FIFO would wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	tooMuch := fmt.Errorf("%s is not a file of at most %d bytes", path, limit)
	if !info.Mode().IsRegular() {
		return nil, tooMuch
	}
	if err := Check(file); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = tooMuch
	}
	return content, err
}

// Check returns ErrUnsafe for a regular file that every user may write to. In a
// directory that every user may write to, a file and the name that leads to it
// must also belong to root or to the user that this process runs as: somebody
// else could have put it there. Group and owner of a file in any other directory
// are the operator's business, and so are other kinds of files: a terminal or a
// pipe holds no decisions.
//
// The rights are those of the file that is open, not of whatever has its name now.
// Kubernetes mounts config maps and secrets as links to files of root, in
// directories that every user may write to by their mode.
func Check(file *os.File) error {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if info.Mode().Perm()&everyone != 0 {
		return fmt.Errorf("%s may be changed by every user (mode %#o), %w: chmod o-w %[1]s", file.Name(), info.Mode().Perm(), ErrUnsafe)
	}
	directory, err := os.Stat(filepath.Dir(file.Name()))
	if err != nil || directory.Mode().Perm()&everyone == 0 {
		return err
	}
	name, err := os.Lstat(file.Name())
	if err != nil {
		return err
	}
	for _, of := range []fs.FileInfo{info, name} {
		if uid := of.Sys().(*syscall.Stat_t).Uid; uid != 0 && int(uid) != os.Geteuid() {
			return fmt.Errorf("%s belongs to user %d, in a directory that every user may write to, %w: move it, or chmod o-w %s",
				file.Name(), uid, ErrUnsafe, filepath.Dir(file.Name()))
		}
	}
	return nil
}
