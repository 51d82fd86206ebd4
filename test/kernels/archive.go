package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// archive is an initramfs: a cpio archive in the format newc
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	out   bytes.Buffer
	names map[string]bool
}

func newArchive() *archive { return &archive{names: make(map[string]bool)} }

// entry appends a file, and first the directories that lead to it. A name occurs once.
func (a *archive) entry(name string, mode, device uint32, content []byte) {
	if name == "." || a.names[name] {
		return
	}
	a.names[name] = true
	a.entry(path.Dir(name), unix.S_IFDIR|0o755, 0, nil)
	a.record(name, mode, device, content)
}

func (a *archive) record(name string, mode, device uint32, content []byte) {
	header := []uint32{
		0, mode, 0, 0, 1, 0, uint32(len(content)), // inode (for hard links), mode, uid, gid, links, mtime, size
		0, 0, unix.Major(uint64(device)), unix.Minor(uint64(device)), uint32(len(name) + 1), 0,
	}
	a.out.WriteString("070701")
	for _, field := range header {
		fmt.Fprintf(&a.out, "%08x", field)
	}
	a.out.WriteString(name + "\x00")
	a.pad()
	a.out.Write(content)
	a.pad()
}

func (a *archive) pad() { a.out.Write(make([]byte, -a.out.Len()&3)) }

// bytes ends the archive.
func (a *archive) bytes() []byte {
	a.record("TRAILER!!!", 0, 0, nil)
	return a.out.Bytes()
}

func (a *archive) directory(name string) { a.entry(name, unix.S_IFDIR|0o755, 0, nil) }

func (a *archive) symlink(name, to string) { a.entry(name, unix.S_IFLNK|0o777, 0, []byte(to)) }

func (a *archive) device(name string, major, minor uint32) {
	a.entry(name, unix.S_IFCHR|0o666, uint32(unix.Mkdev(major, minor)), nil)
}

func (a *archive) text(name, content string) { a.entry(name, unix.S_IFREG|0o644, 0, []byte(content)) }

// file adds a file of this machine.
func (a *archive) file(name, source string) error {
	content, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	a.entry(name, unix.S_IFREG|uint32(info.Mode().Perm()), 0, content)
	return nil
}

// tree adds the regular files below a directory of this machine.
func (a *archive) tree(name, source string) error {
	return filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		relative, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		return a.file(path.Join(name, relative), p)
	})
}

// program adds a dynamically linked program from a root directory to /bin, with its
// interpreter and the libraries that it loads.
func (a *archive) program(root, name string) error {
	source, err := find(root, name, "usr/bin", "usr/sbin", "bin", "sbin")
	if err != nil {
		return err
	}
	if err := a.file("bin/"+path.Base(name), source); err != nil {
		return err
	}
	return a.libraries(root, source)
}

func (a *archive) libraries(root, source string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	binary, err := elf.NewFile(file)
	if err != nil {
		return err
	}
	for _, p := range binary.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		interpreter := make([]byte, p.Filesz-1) // without the final NUL
		if _, err := p.ReadAt(interpreter, 0); err != nil {
			return err
		}
		loader, err := find(root, path.Base(string(interpreter)), libraryDirectories...)
		if err != nil {
			return err
		}
		if err := a.file(string(interpreter)[1:], loader); err != nil {
			return err
		}
	}
	names, err := binary.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, name := range names {
		// The loader searches /lib on every architecture.
		if a.names["lib/"+name] {
			continue
		}
		library, err := find(root, name, libraryDirectories...)
		if err != nil {
			return err
		}
		if err := a.file("lib/"+name, library); err != nil {
			return err
		}
		if err := a.libraries(root, library); err != nil {
			return err
		}
	}
	return nil
}

var libraryDirectories = []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib", "lib", "usr/lib64", "lib64"}

// find returns the path of a file in the first of the directories below root that has it.
// Directories may be patterns.
func find(root, name string, directories ...string) (string, error) {
	for _, dir := range directories {
		found, err := filepath.Glob(filepath.Join(root, dir, name))
		if err != nil {
			return "", err
		}
		slices.Sort(found)
		if len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	return "", fmt.Errorf("%s not found in %v below %s", name, directories, root)
}
