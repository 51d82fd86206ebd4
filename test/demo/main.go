// The demo shows what tcphup is for, on one machine and in about a minute: a service
// fails over, an application stays on the old site, an alert lets tcphup hang its
// connections up, the application reconnects to the new one. Then the same without
// tcphup.
//
// Nothing in it is scripted but the failover. The application is an ordinary HTTP
// client (application.go), the service two HTTP servers on two sites (site.go);
// dnsmasq, Prometheus, Alertmanager and tcphup run with what deploy/ has (deploy.go),
// and every line that is printed is of something that was seen to happen
// (failover.go).
//
// All of it runs in network, mount and process id namespaces of its own, with a
// tmpfs for its files, and ends with them. Run it as root, at the top of the
// repository: make demo
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

// insideName is what the process calls itself that runs in namespaces of its own.
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
	flag.StringVar(&o.tcphup, "tcphup", "tcphup", "`path` of the program to show")
	flag.DurationVar(&o.without, "without", 30*time.Second, "how long to watch the application without tcphup")
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

// outside starts this program once more, in namespaces of its own, and waits for its
// end. Whatever ends the one inside, or both, takes along all that it has started.
func outside(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("must run as root: it makes namespaces of its own")
	}
	var missing []string
	for _, program := range []string{o.tcphup, dnsmasqProgram, "ip", prometheusProgram, alertmanagerProgram} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("needs: %s (tcphup: make build; the others, on Debian and Ubuntu: apt-get install dnsmasq-base iproute2 prometheus prometheus-alertmanager)",
			strings.Join(missing, " "))
	}
	if err := netns.Reexec(insideName); errors.Is(err, netns.ErrInterrupted) {
		return err
	} else if err != nil {
		return fmt.Errorf("the end that was promised was not reached: %w", err)
	}
	return nil
}
