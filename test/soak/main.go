// Soak runs tcphup under continuous load for a given duration and checks its invariants: no
// wrong connection hung up, no alert lost, no scrape failed, and no growth of memory,
// goroutines or descriptors.
//
// Applications (application.go) open and close connections to a few destinations
// (destinations.go) and report how each connection ended. Meanwhile the soak scrapes
// metrics, posts alerts, reloads the configuration, pauses tcphup (drivers.go) and injects
// faults (faults.go). The checker (checker.go) compares each end with the alerts active at
// that time, independently of tcphup. Processes of another user have many descriptors
// (hogs.go).
//
// With -node, tcphup is a node agent, and the applications are in pods with network namespaces
// of their own and the same addresses (place.go). An alert names the namespace of pods: no
// connection of another pod may end.
//
// All processes run in private network, mount and pid namespaces, with a tmpfs for their
// files, and end with them. Run it as root: make soak DURATION=10m
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"tcphup/test/kit/netns"
)

// argv[0] of the child processes of this binary.
const (
	insideName      = "soak-inside" // in the private namespaces
	applicationName = "soak-application"
	serverName      = "soak-server"
	hogName         = "soak-hog"
)

type options struct {
	tcphup        string
	report        string
	duration      time.Duration
	scrapeTimeout time.Duration
	node          bool
}

func main() {
	var o options
	flag.StringVar(&o.tcphup, "tcphup", "tcphup", "`path` of the program to test")
	flag.DurationVar(&o.duration, "duration", 10*time.Minute, "duration of the load")
	flag.DurationVar(&o.scrapeTimeout, "scrape-timeout", 10*time.Second, "timeout of a scrape; Prometheus' default is 10s")
	flag.BoolVar(&o.node, "node", false, "test tcphup serve --node with several pods")
	flag.StringVar(&o.report, "report", "", "write the report as Markdown to this `file`")
	flag.Parse()
	run := outside
	switch os.Args[0] {
	case applicationName:
		run = application
	case serverName:
		run = server
	case hogName:
		run = hog
	case insideName:
		run = inside
	}
	var err error
	if o.tcphup, err = filepath.Abs(o.tcphup); err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

// outside starts this program again in private namespaces and waits for its end. When
// the inner process ends, the kernel kills all other processes of its pid namespace.
func outside(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("must run as root: creates namespaces")
	}
	if o.duration < shortest {
		return fmt.Errorf("-duration must be at least %s", shortest)
	}
	for _, program := range []string{o.tcphup, "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("missing program: %w (tcphup: make build; ip on Debian and Ubuntu: apt-get install iproute2)", err)
		}
	}
	if err := netns.Reexec(insideName); errors.Is(err, netns.ErrInterrupted) {
		return err
	} else if err != nil {
		return fmt.Errorf("soak failed: %w", err)
	}
	return nil
}
