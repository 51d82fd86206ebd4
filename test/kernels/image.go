package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"tcphup/test/kernels/plan"
)

// modules are the kernel modules that the tests need. Modules that these depend on are added.
var modules = []string{"fuse", "veth", "dummy", "inet_diag", "tcp_diag", "mptcp_diag"}

// programs are the programs that the kernel and the tests need.
var programs = []string{"busybox", "dash", "env", "ip", "sleep", "ss", "tail"}

// applets are programs that busybox contains.
var applets = []string{"sbin/modprobe", "bin/mount", "bin/sysctl"}

// programPackages have the programs.
var programPackages = []string{"busybox-static", "coreutils", "dash", "iproute2"}

// image returns the initramfs of a virtual machine. Binaries is a directory with init,
// tcphup, the test application and the test binaries; userland the root of the programs;
// kernelRoot that of the kernel.
func image(ctx context.Context, steps []plan.Step, binaries, userland, kernelRoot string) ([]byte, error) {
	a := newArchive()
	for _, dir := range []string{"proc", "sys", "tmp", "run", "root"} {
		a.directory(dir)
	}
	// Init needs both before it mounts /dev.
	a.device("dev/console", 5, 1)
	a.device("dev/null", 1, 3)
	a.text("etc/passwd", "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
	a.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
	a.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
	a.symlink("bin/sh", "dash")
	for _, name := range applets {
		a.symlink(name, "/bin/busybox")
	}
	for _, name := range programs {
		if err := a.program(userland, name); err != nil {
			return nil, err
		}
	}
	if err := a.file("init", filepath.Join(binaries, "init")); err != nil {
		return nil, err
	}
	if err := a.tree("bin", binaries); err != nil {
		return nil, err
	}
	for _, name := range packages {
		a.directory("src/" + name)
		if err := a.tree("src/"+name+"/testdata", name+"/testdata"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	text, err := json.Marshal(steps)
	if err != nil {
		return nil, err
	}
	a.text(strings.TrimPrefix(plan.Path, "/"), string(text))
	if err := a.modules(ctx, kernelRoot); err != nil {
		return nil, err
	}
	return a.bytes(), nil
}

// modules adds the kernel modules, without compression: busybox does not load all formats.
func (a *archive) modules(ctx context.Context, kernelRoot string) error {
	dir, err := moduleDirectory(kernelRoot)
	if err != nil {
		return err
	}
	dependencies, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return err
	}
	to := path.Join("lib/modules", filepath.Base(dir))
	files, index := closure(string(dependencies), modules)
	for _, file := range files {
		content, err := decompress(ctx, filepath.Join(dir, file))
		if err != nil {
			return err
		}
		a.text(path.Join(to, uncompressed(file)), string(content))
	}
	a.text(path.Join(to, "modules.dep"), index)
	names := make(map[string]bool)
	for _, file := range files {
		names[moduleName(file)] = true
	}
	aliases, err := os.ReadFile(filepath.Join(dir, "modules.alias"))
	if err != nil {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(aliases)) {
		if fields := strings.Fields(line); len(fields) == 3 && names[fields[2]] {
			kept.WriteString(line)
		}
	}
	a.text(path.Join(to, "modules.alias"), kept.String())
	return nil
}

// closure returns the files of the modules and of those that they depend on, and the lines of
// modules.dep for them. Modules that the kernel does not have are left out.
func closure(dependencies string, names []string) (files []string, index string) {
	needs := make(map[string]string) // of a module: the rest of its line
	paths := make(map[string]string)
	for line := range strings.Lines(dependencies) {
		file, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[file], paths[moduleName(file)] = rest, file
	}
	added := make(map[string]bool)
	var add func(file string)
	add = func(file string) {
		if file == "" || added[file] {
			return
		}
		added[file] = true
		files = append(files, file)
		index += uncompressed(file) + ":"
		for _, other := range strings.Fields(needs[file]) {
			index += " " + uncompressed(other)
		}
		index += "\n"
		for _, other := range strings.Fields(needs[file]) {
			add(other)
		}
	}
	for _, name := range names {
		add(paths[name])
	}
	return files, index
}

// moduleName returns the name of the module in a file, as lsmod prints it.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func uncompressed(file string) string {
	return strings.TrimSuffix(strings.TrimSuffix(file, ".xz"), ".zst")
}

func decompress(ctx context.Context, file string) ([]byte, error) {
	switch filepath.Ext(file) {
	case ".xz":
		return command(ctx, "", nil, "xz", "--decompress", "--stdout", file)
	case ".zst":
		return command(ctx, "", nil, "zstd", "--quiet", "--decompress", "--stdout", file)
	default:
		return os.ReadFile(file)
	}
}

// moduleDirectory returns the directory of the modules. Its name is the kernel's release.
func moduleDirectory(kernelRoot string) (string, error) {
	return find(kernelRoot, "*", "lib/modules", "usr/lib/modules")
}

// indexModules writes modules.dep and modules.alias, as the package's installation would.
func indexModules(ctx context.Context, kernelRoot string) error {
	dir, err := moduleDirectory(kernelRoot)
	if err != nil {
		return err
	}
	base := filepath.Dir(filepath.Dir(filepath.Dir(dir)))
	_, err = command(ctx, "", nil, "depmod", "--basedir", base, filepath.Base(dir))
	return err
}
