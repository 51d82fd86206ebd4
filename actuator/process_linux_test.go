package actuator

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// readAll returns files of any size.
func TestReadAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{0, 1, 63, 64, 65, 10_000} {
		want := bytes.Repeat([]byte{'x'}, size)
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readAll(path, make([]byte, 0, 64))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
	if _, err := readAll(path+"x", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := readAll(filepath.Dir(path), nil); err == nil {
		t.Error("directory: no error")
	}
}
