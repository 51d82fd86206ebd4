// Kernels boots kernels of Debian releases in virtual machines, one after the other, hangs up
// connections in many situations there and runs the package tests that depend on the kernel.
// It compares the results with expected.csv and fails on a difference.
//
// Machines are emulated (no KVM) and have no network and no disk: an initramfs has the kernel
// modules, a few programs of Debian 13 and the binaries built here. Packages are downloaded by
// the machine's apt-get with package lists and a package status of its own, and are not
// installed. Run it at the top of the repository: make kernels
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// kernel is a kernel of Debian.
type kernel struct {
	name        string // of its column in the table
	suite, arch string
}

func kernels() []kernel {
	return []kernel{
		{"5.10", "bullseye", "amd64"},
		{"6.1", "bookworm", "amd64"},
		{"6.12", "trixie", "amd64"},
		{"sid", "sid", "amd64"},
		{"6.12 arm64", "trixie", "arm64"},
	}
}

// programSuite is the release of the programs in the virtual machines.
const programSuite = "trixie"

type options struct {
	only    string // names of kernels, separated by commas; empty: all
	cache   string // directory of unpacked packages and of logs
	mirror  string
	archive string // mirror of releases that the other one no longer has
	results string // file of the table as CSV; empty: none
	limit   time.Duration

	work string // directory for the files of this run
}

func main() {
	var o options
	flag.StringVar(&o.only, "only", "", "`kernels` to boot, separated by commas; empty for all")
	flag.StringVar(&o.cache, "cache", "bin/kernels", "`directory` for unpacked packages and logs")
	flag.StringVar(&o.mirror, "mirror", "http://deb.debian.org/debian", "`URL` of a mirror of Debian")
	flag.StringVar(&o.archive, "archive", "http://archive.debian.org/debian", "`URL` of a mirror of releases that mirrors of Debian no longer have")
	flag.StringVar(&o.results, "results", "", "`file` with the table as CSV, to update if a kernel's results are as expected")
	flag.DurationVar(&o.limit, "limit", 30*time.Minute, "limit of the run time of one virtual machine")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	chosen, err := choose(o)
	if err != nil {
		return err
	}
	expected, err := parseExpected(expectedText)
	if err != nil {
		return fmt.Errorf("read expected.csv: %w", err)
	}
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return err
	}
	if err := os.MkdirAll(o.cache, 0o755); err != nil {
		return err
	}
	if o.work, err = os.MkdirTemp("", "tcphup-kernels"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.work)) }()
	// Downloads and builds first: a missing package or program shows before any boot.
	for _, k := range chosen {
		if err := prepare(ctx, o, k); err != nil {
			return fmt.Errorf("prepare kernel %s: %w", k.name, err)
		}
	}
	var differences []string
	for _, k := range chosen {
		start := time.Now()
		r, err := runKernel(ctx, o, k)
		if err != nil {
			return fmt.Errorf("kernel %s: %w; see %s", k.name, err, o.log(k))
		}
		d := expected.compare(k.name, r.cells)
		progress("%s: %s: %d differences after %s", k.name, r.kernel, len(d), time.Since(start).Round(time.Second))
		differences = append(differences, d...)
		if len(d) > 0 || o.results == "" {
			continue
		}
		if err := write(o.results, expected, k.name, r); err != nil {
			return err
		}
	}
	if len(differences) > 0 {
		return fmt.Errorf("%d results differ from test/kernels/expected.csv; consoles are in %s:\n%s", len(differences), o.cache, strings.Join(differences, "\n"))
	}
	return nil
}

// write writes the results of a kernel into the table of results.
func write(path string, expected *table, kernel string, r *results) error {
	old, err := readResults(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	text, err := expected.update(old, kernel, r).csv()
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// choose returns the kernels that the options name.
func choose(o options) ([]kernel, error) {
	if o.only == "" {
		return kernels(), nil
	}
	var chosen []kernel
	for name := range strings.SplitSeq(o.only, ",") {
		i := slices.IndexFunc(kernels(), func(k kernel) bool { return k.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only: no kernel is named %q", name)
		}
		chosen = append(chosen, kernels()[i])
	}
	return chosen, nil
}

func (o options) log(k kernel) string {
	return filepath.Join(o.cache, strings.ReplaceAll(k.name, " ", "-")+".log")
}

// kernelRoot and userland are directories of unpacked packages. They stay in the cache.

func (o options) kernelRoot(k kernel) string {
	return filepath.Join(o.cache, "kernel-"+k.suite+"-"+k.arch)
}

func (o options) userland(k kernel) string { return filepath.Join(o.cache, "programs-"+k.arch) }

func (o options) binaries(k kernel) string { return filepath.Join(o.work, k.arch) }

func (o options) release(suite, arch string) *release {
	return &release{suite: suite, arch: arch, dir: filepath.Join(o.work, "apt-"+suite+"-"+arch), mirrors: []string{o.mirror, o.archive}}
}

// prepare downloads the packages of a kernel's virtual machine and builds its binaries.
func prepare(ctx context.Context, o options, k kernel) error {
	if err := build(ctx, k.arch, o.binaries(k)); err != nil {
		return err
	}
	if err := once(o.kernelRoot(k), func(dir string) error {
		r := o.release(k.suite, k.arch)
		if err := r.open(ctx); err != nil {
			return err
		}
		if err := r.kernel(ctx, dir); err != nil {
			return err
		}
		return indexModules(ctx, dir)
	}); err != nil {
		return err
	}
	return once(o.userland(k), func(dir string) error {
		r := o.release(programSuite, k.arch)
		if err := r.open(ctx); err != nil {
			return err
		}
		return r.programs(ctx, dir, programPackages...)
	})
}

// runKernel boots a kernel and returns the results.
func runKernel(ctx context.Context, o options, k kernel) (*results, error) {
	excluded, err := parseExcluded(excludedText)
	if err != nil {
		return nil, fmt.Errorf("read excluded.csv: %w", err)
	}
	initramfs, err := image(ctx, steps(k.name, excluded), o.binaries(k), o.userland(k), o.kernelRoot(k))
	if err != nil {
		return nil, err
	}
	file := filepath.Join(o.work, "initramfs")
	if err := os.WriteFile(file, initramfs, 0o644); err != nil {
		return nil, err
	}
	kernelFile, err := find(o.kernelRoot(k), "vmlinuz*", "boot", "usr/lib/modules/*")
	if err != nil {
		return nil, err
	}
	args, err := emulator(k.arch, kernelFile, file)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(o.log(k))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	progress("%s: booting, console in %s", k.name, o.log(k))
	return boot(ctx, args, o.limit, log)
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
