package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// release is a Debian release of one architecture, in a directory of its own.
type release struct {
	suite, arch string
	dir         string
	mirrors     []string // the first one that has the suite is used
}

// aptConf replaces the configuration of the machine's apt. Only its settings for downloads,
// such as a proxy, are appended.
const aptConf = `Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Log "%[1]s";
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Sandbox::User "root";
Debug::NoLocking "true";
`

// keyring has Debian's archive keys; package debian-archive-keyring.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// open prepares the directory and downloads the package lists.
func (r *release) open(ctx context.Context) error {
	for _, dir := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(r.dir, dir), 0o755); err != nil {
			return err
		}
	}
	settings, err := downloadSettings(ctx)
	if err != nil {
		return err
	}
	conf := fmt.Appendf(nil, aptConf, r.dir, r.arch)
	if err := errors.Join(
		os.WriteFile(r.path("apt.conf"), append(conf, settings...), 0o644),
		// No package is installed, so that apt downloads every dependency.
		os.WriteFile(r.path("status"), nil, 0o644),
	); err != nil {
		return err
	}
	var errs []error
	for _, mirror := range r.mirrors {
		source := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, mirror, r.suite)
		if err := os.WriteFile(r.path("sources.list"), []byte(source), 0o644); err != nil {
			return err
		}
		_, err := r.run(ctx, r.dir, "apt-get", "update", "--error-on=any")
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *release) path(name string) string { return filepath.Join(r.dir, name) }

// downloadSettings returns the settings of the machine's apt for downloads.
func downloadSettings(ctx context.Context) ([]byte, error) {
	out, err := command(ctx, "", nil, "apt-config", "dump")
	if err != nil {
		return nil, err
	}
	var settings []byte
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Acquire::") && !strings.HasPrefix(line, "Acquire::IndexTargets") {
			settings = append(settings, line...)
		}
	}
	return settings, nil
}

// run runs a program of apt in a directory.
func (r *release) run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	return command(ctx, dir, []string{"APT_CONFIG=" + r.path("apt.conf")}, args...)
}

// kernelPackage matches the packages with a kernel and its modules.
var kernelPackage = regexp.MustCompile(`^linux-(image|binary|modules)-[0-9]\S*$`)

// kernel unpacks the kernel of the release into a directory.
func (r *release) kernel(ctx context.Context, to string) error {
	out, err := r.run(ctx, "", "apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
		"--no-breaks", "--no-replaces", "--no-enhances", "linux-image-"+r.arch)
	if err != nil {
		return err
	}
	var packages []string
	for line := range strings.Lines(string(out)) {
		if name := strings.TrimSpace(line); kernelPackage.MatchString(name) && !slices.Contains(packages, name) {
			packages = append(packages, name)
		}
	}
	if len(packages) == 0 {
		return fmt.Errorf("linux-image-%s of %s depends on no kernel", r.arch, r.suite)
	}
	if _, err := r.run(ctx, r.path("cache/archives"), append([]string{"apt-get", "download"}, packages...)...); err != nil {
		return err
	}
	return r.unpack(ctx, to)
}

// programs unpacks packages and their dependencies into a directory.
func (r *release) programs(ctx context.Context, to string, packages ...string) error {
	args := append([]string{"apt-get", "install", "--download-only", "--yes", "--no-install-recommends"}, packages...)
	if _, err := r.run(ctx, "", args...); err != nil {
		return err
	}
	return r.unpack(ctx, to)
}

// unpack moves the downloaded packages' files to a directory, without running their scripts.
func (r *release) unpack(ctx context.Context, to string) error {
	packages, err := filepath.Glob(r.path("cache/archives/*.deb"))
	if err != nil {
		return err
	}
	for _, p := range packages {
		if _, err := command(ctx, "", nil, "dpkg-deb", "--extract", p, to); err != nil {
			return err
		}
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	return nil
}

// command runs a program and returns its standard output.
func command(ctx context.Context, dir string, environment []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), environment...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// once calls fill to make a directory, unless an earlier call has completed it.
func once(dir string, fill func(temporary string) error) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temporary := dir + ".part"
	if err := errors.Join(os.RemoveAll(temporary), os.MkdirAll(temporary, 0o755)); err != nil {
		return err
	}
	if err := fill(temporary); err != nil {
		return err
	}
	return os.Rename(temporary, dir)
}
