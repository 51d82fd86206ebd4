// Clients hangs up connections of unmodified clients to real servers and measures what their
// applications see. It compares the results with expected.csv and fails on a difference.
//
// Servers run in private network, mount and pid namespaces, with a tmpfs for their files. Each
// client runs in a network namespace of its own with a link to the servers (host.go). Servers
// are in servers.go and backend.go, clients in clients.go and programs/, situations in
// situations.go. Run it as root at the top of the repository: make clients
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"tcphup/test/kit/netns"
)

// insideName is argv[0] of the process inside the private namespaces.
const insideName = "clients-inside"

// defaultBound is how long to wait for a client. Some give up by themselves after 60 s.
const defaultBound = 70 * time.Second

type options struct {
	tcphup   string
	cache    string // directory for the built client programs
	programs string // directory with their sources
	only     string // names of clients, separated by commas; empty: all
	expected string // file with the expected results
	results  string // file of the results as CSV; empty: none
	parallel int
	bound    time.Duration
	learn    bool
}

func main() {
	var o options
	flag.StringVar(&o.tcphup, "tcphup", "tcphup", "`path` of the program to test")
	flag.StringVar(&o.cache, "cache", "../../bin/clients", "`directory` for built client programs")
	flag.StringVar(&o.programs, "programs", "programs", "`directory` with the sources of client programs")
	flag.StringVar(&o.only, "only", "", "`clients` to run, separated by commas; empty for all")
	flag.StringVar(&o.expected, "expected", "expected.csv", "`file` with the expected results")
	flag.StringVar(&o.results, "results", "", "`file` for the results as CSV, if they are as expected")
	flag.IntVar(&o.parallel, "parallel", 6, "`number` of clients that run at the same time")
	flag.DurationVar(&o.bound, "bound", defaultBound, "how long to wait for a client")
	flag.BoolVar(&o.learn, "learn", false, "add the results to the expected ones instead of comparing")
	flag.Parse()
	run := outside
	if os.Args[0] == insideName {
		run = inside
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
}

// outside builds the client programs and starts this program again in private namespaces.
func outside(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("must run as root: creates namespaces")
	}
	if err := buildPrograms(context.Background(), o); err != nil {
		return err
	}
	return netns.Reexec(insideName)
}

// buildPrograms compiles the Go and Java programs and installs the packages of Node.
func buildPrograms(ctx context.Context, o options) error {
	node := filepath.Join(o.cache, "node")
	if err := os.MkdirAll(node, 0o755); err != nil {
		return err
	}
	for _, file := range []string{"package.json", "package-lock.json", "main.mjs"} {
		text, err := os.ReadFile(filepath.Join(o.programs, "node", file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(node, file), text, 0o644); err != nil {
			return err
		}
	}
	for _, command := range [][]string{
		{"go", "build", "-o", filepath.Join(o.cache, "golang"), "./" + filepath.Join(o.programs, "golang")},
		{"javac", "-cp", classPath(o), "-d", o.cache, filepath.Join(o.programs, "java", "Main.java")},
		{"npm", "ci", "--prefix", node, "--ignore-scripts", "--no-audit", "--no-fund", "--silent"},
	} {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(command, " "), err)
		}
	}
	return nil
}

// classPath has the libraries of Debian's packages.
func classPath(o options) string {
	path := []string{o.cache}
	for _, library := range []string{"HikariCP", "commons-dbcp2", "commons-pool2", "commons-logging", "commons-codec", "httpclient", "httpcore", "mariadb-java-client", "okhttp", "okio", "postgresql", "slf4j-api"} {
		path = append(path, "/usr/share/java/"+library+".jar")
	}
	return strings.Join(path, ":")
}
