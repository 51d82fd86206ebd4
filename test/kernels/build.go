package main

import (
	"context"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"tcphup/test/kernels/plan"
)

// packages are those whose tests run in the virtual machines.
var packages = []string{"sockdiag", "namespaces", "actuator", "collector"}

// compilers are the C compilers of the test application, by architecture.
var compilers = map[string]string{"amd64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}

// build builds the binaries for an architecture, statically linked, unless they exist.
func build(ctx context.Context, arch, dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	environment := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}
	output := func(name string) string { return filepath.Join(dir, name) }
	strip := "-ldflags=-s -w"
	commands := [][]string{
		{"go", "build", "-trimpath", strip, "-o", output("tcphup"), "."},
		{"go", "build", strip, "-o", output("init"), "./test/kernels/inside"},
		{"go", "test", "-c", strip, "-o", output("situations.test"), "./test/kernels/situations"},
		{compilers[arch], "-static", "-D_GNU_SOURCE", "-O1", "-o", output("app"), "test/kit/testapp/testdata/app.c"},
		{compilers[arch], "-static", "-D_GNU_SOURCE", "-O1", "-o", output("churn"), "test/kit/testapp/testdata/churn.c"},
	}
	for _, p := range packages {
		commands = append(commands, []string{"go", "test", "-c", strip, "-o", output(p + ".test"), "./" + p})
	}
	for _, args := range commands {
		if _, err := command(ctx, "", environment, args...); err != nil {
			return err
		}
	}
	return nil
}

// exclusion is a package test that does not run on a kernel.
type exclusion struct {
	test, kernel string // kernel: a name, or everyKernel
	reason       string
}

// excludedText has the exclusions: package, test, kernel, reason.
//
//go:embed excluded.csv
var excludedText string

// parseExcluded returns the exclusions by package.
func parseExcluded(text string) (map[string][]exclusion, error) {
	reader := csv.NewReader(strings.NewReader(text))
	reader.Comment = '#'
	reader.FieldsPerRecord = 4
	lines, err := reader.ReadAll()
	if err != nil {
		return nil, err
	}
	excluded := make(map[string][]exclusion)
	for _, line := range lines {
		e := exclusion{test: line[1], kernel: line[2], reason: line[3]}
		if e.test == "" || e.kernel == "" || e.reason == "" {
			return nil, fmt.Errorf("%q has no test, kernel or reason", line)
		}
		excluded[line[0]] = append(excluded[line[0]], e)
	}
	return excluded, nil
}

// steps returns the programs that the virtual machine of a kernel runs, in their order.
func steps(kernel string, excluded map[string][]exclusion) []plan.Step {
	environment := []string{plan.VirtualMachine + "=1", "TCPHUP_TEST_BINARY=/bin/tcphup", "TCPHUP_TEST_APPLICATIONS=/bin"}
	all := []plan.Step{{
		Name: "situations", Dir: "/", Environment: environment, Seconds: 600,
		Args: []string{"/bin/situations.test", "-test.v", "-test.timeout=9m"},
	}}
	for _, p := range packages {
		args := []string{"/bin/" + p + ".test", "-test.v", "-test.timeout=14m"}
		var skip []string
		for _, e := range excluded[p] {
			if e.kernel == kernel || e.kernel == everyKernel {
				skip = append(skip, "^"+regexp.QuoteMeta(e.test)+"$")
			}
		}
		if len(skip) > 0 {
			args = append(args, "-test.skip="+strings.Join(skip, "|"))
		}
		all = append(all, plan.Step{Name: "tests of " + p, Dir: "/src/" + p, Environment: environment, Seconds: 900, Args: args})
	}
	return all
}
