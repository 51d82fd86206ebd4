package safefile

import (
	"errors"
	"io/fs"
	"os"
)

// Replace replaces a file atomically, with mode 0600: a reader gets the old or the new
// content. A process killed in between leaves a temporary file, which the next Replace
// removes.
func Replace(path string, content []byte) error {
	name := path + ".new"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temporary, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = temporary.Write(content)
	err = errors.Join(err, temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// SetAside renames an unusable file to PATH.damaged, for inspection, and returns that path.
func SetAside(path string) (string, error) {
	aside := path + ".damaged"
	return aside, os.Rename(path, aside)
}
