// Package program builds tcphup for tests that run it.
package program

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pathVariable is the environment variable for the path of the binary. Test processes in
// namespaces inherit it.
const pathVariable = "TCPHUP_TEST_BINARY"

// Main builds tcphup, runs the tests of a package and returns the exit code for TestMain. It
// does not build with -short, or if the environment has the path of a binary.
func Main(m *testing.M) (code int) {
	flag.Parse()
	if os.Getenv(pathVariable) != "" || testing.Short() {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "tcphup-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "build tcphup:", err)
		return 1
	}
	return m.Run()
}

// build builds the binary as `make build` does. Every user may run it.
func build(dir string) error {
	// The test may be in another module with other versions of the dependencies.
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "tcphup").Output()
	if err != nil {
		return err
	}
	binary := filepath.Join(dir, "tcphup")
	arguments := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", binary}
	if os.Getenv("GOCOVERDIR") != "" {
		arguments = append(arguments, "-cover", "-coverpkg=tcphup/...")
	}
	cmd := exec.Command("go", append(arguments, "tcphup")...)
	cmd.Dir = strings.TrimSpace(string(module))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return errors.Join(cmd.Run(), os.Chmod(dir, 0o755), os.Setenv(pathVariable, binary))
}

// Path returns the path of the binary. With -short it skips the test.
func Path(t testing.TB) string {
	t.Helper()
	path := os.Getenv(pathVariable)
	switch {
	case path != "":
	case testing.Short():
		t.Skip("needs tcphup, which -short does not build")
	default:
		t.Fatal("TestMain of the package does not call program.Main")
	}
	return path
}
