package audit

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"tcphup/internal/safefile"
)

// ErrNotRegular matches errors about an audit file that is not a regular file.
var ErrNotRegular = errors.New("not a regular file")

// Open opens an existing audit file of another process, to append records to it, and
// returns a function that closes the file. It never creates a file: tcphup serve could not
// write a file of another user. Errors match fs.ErrNotExist, fs.ErrPermission, ErrNotRegular
// or safefile.ErrUnsafe. A symbolic link is an error too: the directory may belong to a user
// with less rights than the caller.
func Open(path string) (*Log, func() error, error) {
	// O_NONBLOCK: to open a FIFO without a reader would block.
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, nil, fmt.Errorf("open %s: symbolic link: %w", path, ErrNotRegular)
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: %w", path, ErrNotRegular)
	}
	if err == nil {
		err = safefile.Check(file)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	log := New(file)
	if !endsWithNewline(path, info.Size()) {
		log.EndLine()
	}
	return log, file.Close, nil
}

// endsWithNewline reports whether the last of size bytes is a newline. It is true for an
// empty and for an unreadable file.
func endsWithNewline(path string, size int64) bool {
	if size == 0 {
		return true
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer reader.Close()
	last := []byte{'\n'}
	_, _ = reader.ReadAt(last, size-1)
	return last[0] == '\n'
}
