// Package safefile reads configuration, credential and state files. It rejects files that
// another user can modify or replace, because their content controls which connections are
// closed.
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

// ErrUnsafe matches errors about files writable by other users.
var ErrUnsafe = errors.New("unsafe file")

const (
	worldWritable = 0o002 // S_IWOTH
	groupWritable = 0o020 // S_IWGRP
	worldAccess   = 0o007 // S_IRWXO
)

// Read returns the content of a regular file of at most limit bytes. The error matches
// ErrUnsafe if Check rejects the file, and fs.ErrNotExist if it does not exist.
func Read(path string, limit int64) ([]byte, error) {
	return read(path, limit, func(fs.FileInfo) error { return nil })
}

// ReadSecret is Read for credentials. It also rejects a file that other users can access
// or that its group can write.
func ReadSecret(path string, limit int64) ([]byte, error) {
	return read(path, limit, func(info fs.FileInfo) error {
		switch mode := info.Mode().Perm(); {
		case mode&worldAccess != 0:
			return fmt.Errorf("%w %s: accessible to other users (mode %#o); chmod it to 0640 or less, for a Kubernetes secret set defaultMode: 0440", ErrUnsafe, path, mode)
		case mode&groupWritable != 0:
			return fmt.Errorf("%w %s: writable by its group (mode %#o); chmod it to 0640 or less", ErrUnsafe, path, mode)
		}
		return nil
	})
}

func read(path string, limit int64, check func(fs.FileInfo) error) ([]byte, error) {
	// Without O_NONBLOCK, opening a FIFO blocks until it has a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case info.IsDir():
		return nil, fmt.Errorf("read %s: %w", path, syscall.EISDIR)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read %s: not a regular file", path)
	}
	if err := errors.Join(check(info), Check(file)); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("read %s: larger than %d bytes", path, limit)
	}
	return content, err
}

// Check returns an error that matches ErrUnsafe for a world-writable regular file. In a
// world-writable directory the file, and a symbolic link to it, must also belong to root or
// to the effective user of the process. Owner and group of a file in any other directory
// are not checked. Terminals, pipes and other non-regular files pass.
//
// Check reads the mode and owner of the open file, not of its path. Kubernetes mounts config
// maps and secrets as links to files of root, in directories with a world-writable mode.
func Check(file *os.File) error {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if info.Mode().Perm()&worldWritable != 0 {
		return fmt.Errorf("%w %s: world-writable (mode %#o); run chmod o-w %[2]s", ErrUnsafe, file.Name(), info.Mode().Perm())
	}
	directory, err := os.Stat(filepath.Dir(file.Name()))
	if err != nil || directory.Mode().Perm()&worldWritable == 0 {
		return err
	}
	link, err := os.Lstat(file.Name())
	if err != nil {
		return err
	}
	for _, of := range []fs.FileInfo{info, link} {
		if uid := of.Sys().(*syscall.Stat_t).Uid; uid != 0 && int(uid) != os.Geteuid() {
			return fmt.Errorf("%w %s: belongs to user %d, in a world-writable directory; move it, or run chmod o-w %s",
				ErrUnsafe, file.Name(), uid, filepath.Dir(file.Name()))
		}
	}
	return nil
}
