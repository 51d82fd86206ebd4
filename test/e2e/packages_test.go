package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/nstest"
	"tcphup/test/kit/program"
)

// TestPrivilegedPackages installs both packages into an empty root, runs the program there and
// checks that removal leaves no files.
func TestPrivilegedPackages(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		dist := t.TempDir()
		nstest.Command(t, "make", "--no-print-directory", "-C", "../..", "packages",
			"DIST="+dist, "BINARY="+dist+"/tcphup", "VERSION=1.2.3", "HOMEPAGE="+homepage)
		for _, tt := range []struct {
			name, file      string
			install, remove []string // after --root=ROOT
			zsh             string   // directory of the package's functions
			homepage        []string // command that prints it, before the file
			prepare         func(t *testing.T, root string)
		}{
			{
				name: need(t, "dpkg", "dpkg"), file: "*.deb",
				install: []string{"--install"}, remove: []string{"--purge", "tcphup"},
				zsh: "usr/share/zsh/vendor-completions", prepare: prepareDpkg,
				homepage: []string{"dpkg-deb", "--show", "--showformat=${Homepage}"},
			},
			{
				// The root has no package for the dependency on a shell.
				name: need(t, "rpm", "rpm"), file: "*.rpm",
				install: []string{"--nodeps", "--install"}, remove: []string{"--erase", "tcphup"},
				zsh: "usr/share/zsh/site-functions", homepage: []string{"rpm", "--query", "--queryformat=%{URL}", "--package"},
				prepare: func(t *testing.T, root string) {
					nstest.Command(t, "rpm", "--root="+root, "--initdb")
				},
			},
		} {
			t.Run(filepath.Base(tt.name), func(t *testing.T) {
				files, err := filepath.Glob(filepath.Join(dist, tt.file))
				if err != nil || len(files) != 1 {
					t.Fatalf("packages: %v, %v", files, err)
				}
				root, written := cleanRoot(t)
				tt.prepare(t, root)
				manage := append([]string{tt.name, "--root=" + root}, tt.install...)
				nstest.Command(t, append(manage, files[0])...)

				for _, path := range []string{
					"usr/bin/tcphup", "usr/lib/systemd/system/tcphup.service", "etc/default/tcphup", "etc/tcphup",
					"usr/share/doc/tcphup/copyright", "usr/share/doc/tcphup/deploy/rules.yml", "usr/share/doc/tcphup/deploy/user.conf",
					"usr/share/doc/tcphup/deploy/dashboard.json", "usr/share/doc/tcphup/deploy/kubernetes/acting/kustomization.yaml",
				} {
					if _, err := os.Stat(filepath.Join(root, path)); err != nil {
						t.Error(err)
					}
				}
				in := &syscall.SysProcAttr{Chroot: root}
				version := runAs(t, in, "/usr/bin/tcphup", "--version")
				version.mustExit(t, 0)
				if !strings.Contains(version.stdout, "version 1.2.3") {
					t.Errorf("--version: %s", version.stdout)
				}
				runAs(t, in, "/usr/bin/tcphup", "check-config", "/usr/share/doc/tcphup/deploy/tcphup.example.yml").mustExit(t, 0)
				runAs(t, in, "/usr/bin/tcphup", "probe").mustExit(t, 0)
				if got := nstest.Command(t, append(tt.homepage, files[0])...); strings.TrimSpace(got) != homepage {
					t.Errorf("homepage %q, want %q", got, homepage)
				}
				checkLinks(t, filepath.Join(root, "usr/share/doc/tcphup"))
				checkManPage(t, root)
				checkCompletion(t, root, filepath.Join(root, tt.zsh))

				nstest.Command(t, append([]string{tt.name, "--root=" + root}, tt.remove...)...)
				for _, dir := range []string{written, filepath.Join(root, "etc")} {
					if _, err := os.Stat(dir); os.IsNotExist(err) {
						continue // dpkg removes an empty /etc as well
					}
					err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
						if err == nil && (!entry.IsDir() || strings.Contains(path, "tcphup/")) && entry.Type()&fs.ModeCharDevice == 0 {
							t.Errorf("left after removal: %s", path)
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	})
}

// homepage is an address for the packages' metadata.
const homepage = "https://tcphup.example/"

// checkLinks checks that the links in the installed documents lead to installed files.
func checkLinks(t *testing.T, directory string) {
	t.Helper()
	links := 0
	err := filepath.WalkDir(directory, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`).FindAllSubmatch(text, -1) {
			links++
			if to := string(m[1]); !strings.Contains(to, "://") {
				if _, err := os.Stat(filepath.Join(filepath.Dir(path), to)); err != nil {
					t.Errorf("dead link in %s: %v", filepath.Base(path), err)
				}
			}
		}
		return err
	})
	if err != nil || links == 0 {
		t.Errorf("%d links in %s: %v", links, directory, err)
	}
}

// checkManPage checks the installed man page.
func checkManPage(t *testing.T, root string) {
	t.Helper()
	r := runProgram(t, nil, need(t, "gzip", "gzip"), "-dc", filepath.Join(root, "usr/share/man/man1/tcphup.1.gz"))
	r.mustExit(t, 0)
	if r.stdout != tcphup(t, "--help-man").stdout {
		t.Error("installed man page differs from --help-man")
	}
	formatManPage(t, r.stdout)
}

// checkCompletion completes a word with the installed scripts, loaded on first use like in
// interactive shells.
func checkCompletion(t *testing.T, root, zshFunctions string) {
	t.Helper()
	program, bashScript := filepath.Join(root, "usr/bin/tcphup"), filepath.Join(root, "usr/share/bash-completion/completions/tcphup")
	for _, tt := range []struct{ shell, script, run string }{
		{"bash", bashScript, `. "$1" && complete -p tcphup >&2 && COMP_WORDS=("$0" list --flo) COMP_CWORD=2 &&
			_tcphup_bash_autocomplete && printf '%s\n' "${COMPREPLY[@]}"`},
		{"zsh", filepath.Join(zshFunctions, "_tcphup"), `compadd() { print -rl -- "${(@P)2}" }
			fpath=("${1:h}") && autoload -Uz _tcphup && words=("$0" list --flo) CURRENT=3 && _tcphup`},
	} {
		shell := need(t, tt.shell, tt.shell)
		runProgram(t, nil, shell, "-n", tt.script).mustExit(t, 0)
		r := runProgram(t, nil, shell, "-c", tt.run, program, tt.script)
		r.mustExit(t, 0)
		if !slices.Contains(strings.Split(r.stdout, "\n"), "--flows") {
			t.Errorf("%s: %q, %s", tt.shell, r.stdout, r.stderr)
		}
	}
}

// prepareDpkg creates an empty package database.
func prepareDpkg(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []string{"info", "updates", "triggers"} {
		mkdir(t, filepath.Join(root, "var/lib/dpkg", dir))
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// cleanRoot returns a root directory that has only the machine's /usr, which package scripts
// need, as an overlay. written is the overlay's upper directory.
func cleanRoot(t *testing.T) (root, written string) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	root = filepath.Join(dir, "root")
	for _, name := range []string{"upper", "work", "root/usr", "root/etc", "root/var/lib", "root/tmp", "root/proc", "root/dev"} {
		mkdir(t, filepath.Join(dir, name))
	}
	// systemd's mount namespaces require that the root is a mount.
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+link, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=/usr,upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	if err := unix.Mount("overlay", root+"/usr", "overlay", 0, options); err != nil {
		t.Fatalf("mount overlay: %v", err)
	}
	for _, name := range []string{"proc", "dev"} {
		if err := unix.Mount("/"+name, filepath.Join(root, name), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root, filepath.Join(dir, "upper")
}

// TestSystemdUnit checks the unit with systemd-analyze verify and its exposure level.
func TestSystemdUnit(t *testing.T) {
	analyze := need(t, "systemd-analyze", "systemd")
	unit, err := os.ReadFile("../../deploy/package/tcphup.service")
	if err != nil {
		t.Fatal(err)
	}
	// verify checks that the binary exists.
	here := writeFile(t, "tcphup.service", strings.ReplaceAll(string(unit), "/usr/bin/tcphup", program.Path(t)))
	r := runProgram(t, nil, analyze, "verify", "--man=no", here)
	r.mustExit(t, 0)
	if strings.Contains(r.stderr, here) || strings.Contains(r.stderr, "tcphup.service:") {
		t.Errorf("systemd-analyze verify: %s", r.stderr)
	}

	r = runProgram(t, nil, analyze, "security", "--offline=true", "--no-pager", here)
	r.mustExit(t, 0)
	score := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(r.stdout)
	if score == nil {
		t.Fatalf("no score in %s", r.stdout)
	}
	// The remaining exposure is necessary: network, netlink, all processes and three
	// capabilities.
	if level, err := strconv.ParseFloat(score[1], 64); err != nil || level > 2.7 {
		t.Errorf("exposure %s (0 is best, 10 worst), want 2.7 at most", score[1])
	}
}

// TestImageTool checks the command of make image for docker and podman.
func TestImageTool(t *testing.T) {
	for tool, want := range map[string]string{"docker": "docker build  --target prebuilt", "podman": "podman build --format=docker --target prebuilt"} {
		r := runProgram(t, nil, need(t, "make", "make"), "--no-print-directory", "--dry-run", "-C", "../..", "image", "CONTAINER_TOOL="+tool)
		r.mustExit(t, 0)
		if !strings.Contains(r.stdout, "\n"+want) {
			t.Errorf("%s: %s", tool, r.stdout)
		}
	}
}
