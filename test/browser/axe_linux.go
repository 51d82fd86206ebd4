package browser

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Version and checksum of axe-core, the engine of the accessibility checks.
const (
	axeVersion = "4.14.1"
	axeSHA256  = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
)

// AxeVariable is the environment variable with the path of an axe.min.js. Unset: npm
// installs it.
const AxeVariable = "TCPHUP_AXE"

// Axe returns the source of axe-core. The first call installs it with npm into the cache
// of the user and needs the network, so call Axe before nstest.Run. A file with another
// checksum fails the test. Under -short Axe skips the test.
func Axe(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short skips the browser")
	}
	path := os.Getenv(AxeVariable)
	if path == "" {
		path = installAxe(t)
	}
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(source); hex.EncodeToString(sum[:]) != axeSHA256 {
		t.Fatalf("%s is not axe-core %s: SHA-256 is %x", path, axeVersion, sum)
	}
	return string(source)
}

func installAxe(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "tcphup-test", "axe-core-"+axeVersion)
	path := filepath.Join(dir, "node_modules", "axe-core", "axe.min.js")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path
	}
	cmd := exec.CommandContext(t.Context(), "npm", "install", "--prefix="+dir, "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "axe-core@"+axeVersion)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install axe-core (npm is needed, and the network, or %s=FILE with axe.min.js %s): %v\n%s", AxeVariable, axeVersion, err, out)
	}
	return path
}

// Violation is a rule of axe-core that the page violates.
type Violation struct {
	ID, Impact, Help string
	Nodes            []string // HTML of the elements
}

func (v Violation) String() string {
	return v.ID + " (" + v.Impact + "): " + v.Help + "\n  " + strings.Join(v.Nodes, "\n  ")
}

// Violations runs all rules of axe-core on the open page.
func (b *Browser) Violations(axe string) []Violation {
	b.t.Helper()
	Eval[bool](b, axe+"; true")
	return Eval[[]Violation](b, `axe.run().then(r => r.violations.map(v => ({
		ID: v.id, Impact: v.impact, Help: v.help, Nodes: v.nodes.map(n => n.html + "\n    " + n.failureSummary)})))`)
}
