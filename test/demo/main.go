// Demo shows a failover with and without tcphup, on one machine in about a minute. A service
// fails over, an application stays on the old site, an alert makes tcphup hang up its
// connections, and the application reconnects to the new site.
//
// Only the failover is scripted. The application is an ordinary HTTP client
// (application.go), the service two HTTP servers on two sites (site.go). dnsmasq,
// Prometheus, Alertmanager and tcphup run with the files of deploy/ (deploy.go). Each
// printed line is an observed event (events.go, failover.go).
//
// All processes run in private network, mount and pid namespaces, with a tmpfs for their
// files, and end with them. Run it as root at the top of the repository: make demo
package main

import (
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
const insideName = "demo-inside"

type options struct {
	tcphup  string
	without time.Duration
}

func main() {
	if filepath.Base(os.Args[0]) == applicationName {
		application(os.Args[1])
		return
	}
	var o options
	flag.StringVar(&o.tcphup, "tcphup", "tcphup", "`path` of the program to demonstrate")
	flag.DurationVar(&o.without, "without", 30*time.Second, "observation time of the application without tcphup")
	flag.Parse()
	run := outside
	if os.Args[0] == insideName {
		run = inside
	}
	var err error
	if o.tcphup, err = filepath.Abs(o.tcphup); err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// outside starts this program again in private namespaces and waits for its end. When
// the inner process ends, the kernel kills all other processes of its pid namespace.
func outside(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("must run as root: creates namespaces")
	}
	var missing []string
	for _, program := range []string{o.tcphup, dnsmasqProgram, "ip", prometheusProgram, alertmanagerProgram} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing programs: %s (tcphup: make build; others on Debian and Ubuntu: apt-get install dnsmasq-base iproute2 prometheus prometheus-alertmanager)",
			strings.Join(missing, " "))
	}
	if err := netns.Reexec(insideName); errors.Is(err, netns.ErrInterrupted) {
		return err
	} else if err != nil {
		return fmt.Errorf("demo failed: %w", err)
	}
	return nil
}
