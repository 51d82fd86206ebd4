package audit

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"tcphup/internal/safefile"
)

// ErrNotRegular matches errors about an audit file that is not a regular file.
var ErrNotRegular = errors.New("not a regular file")

// Open opens an existing audit file of another process, to append records to it, and
// returns a function that closes the file. It never creates a file: tcphup serve could not
// write a file of another user. Errors match fs.ErrNotExist, fs.ErrPermission, ErrNotRegular
// or safefile.ErrUnsafe. A symbolic link is an error too, and a file with several names: the
// directory may belong to a user with less rights than the caller.
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
	if err == nil && info.Sys().(*syscall.Stat_t).Nlink > 1 {
		err = fmt.Errorf("open %s: several hard links: %w", path, safefile.ErrUnsafe)
	}
	if err == nil {
		err = safefile.Check(file)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	log := New(file)
	if endsTorn(path) {
		log.EndLine()
	}
	return log, file.Close, nil
}

const (
	// tornInterval is how long a file with an incomplete last line must not grow: another
	// process may be writing the line.
	tornInterval = 20 * time.Millisecond
	// maxLooks bounds the wait for a file that grows.
	maxLooks = 50
)

// endsTorn reports whether the last line is incomplete because its writer was killed or the
// disk was full. It is false for an unreadable file.
func endsTorn(path string) bool {
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer reader.Close()
	before := int64(-1)
	for range maxLooks {
		info, err := reader.Stat()
		if err != nil || info.Size() == 0 {
			return false
		}
		last := make([]byte, 1)
		if _, err := reader.ReadAt(last, info.Size()-1); err != nil || last[0] == '\n' {
			return false
		}
		if info.Size() == before {
			return true
		}
		before = info.Size()
		time.Sleep(tornInterval)
	}
	return true
}
