// Package kubernetes tests the manifests and the Helm chart in a Kubernetes of one node, which
// runs in network, mount and pid namespaces of its own and dies with them.
package kubernetes

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tcphup/test/kit/netns"
)

// directoryVariable is the environment variable for the directory of the cluster. It marks the
// process in the namespaces.
const directoryVariable = "TCPHUP_KUBERNETES_DIRECTORY"

// node is the cluster of all tests.
var node *cluster

func TestMain(m *testing.M) {
	flag.Parse()
	run := outside
	if os.Getenv(directoryVariable) != "" {
		run = func() error { return inside(m) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// outside prepares the directory and the cgroups of the cluster, runs the tests in new
// namespaces, and verifies that nothing is left.
func outside() (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the tests of Kubernetes need root")
	}
	dir, err := os.MkdirTemp("", "tcphup-kubernetes-")
	if err != nil {
		return err
	}
	before, err := newTraces(dir)
	if err != nil {
		return err
	}
	defer func() {
		if removed := before.remove(); err == nil {
			err = removed
		}
	}()
	if err := buildPrograms(dir); err != nil {
		return err
	}
	if err := os.Setenv(directoryVariable, dir); err != nil {
		return err
	}
	return netns.Reexec(os.Args[0])
}

// buildPrograms builds the programs of the images: inside of the namespaces Go has no network.
func buildPrograms(dir string) error {
	for name, source := range map[string]string{"tcphup": "tcphup", "app": "./app", "pause": "./pause"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), source)
		if name == "tcphup" {
			// The versions of the dependencies are those of its own module.
			cmd.Dir = "../.."
		}
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// inside starts the cluster in the namespaces and runs the tests.
func inside(m *testing.M) error {
	if err := netns.Prepare(); err != nil {
		return err
	}
	var err error
	if node, err = startCluster(os.Getenv(directoryVariable)); err != nil {
		return err
	}
	if code := m.Run(); code != 0 {
		return fmt.Errorf("logs of the cluster are in %s", node.keepLogs())
	}
	return nil
}
