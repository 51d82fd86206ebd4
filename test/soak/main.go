// The soak lets tcphup work for as long as one likes under a load that never rests,
// and says whether it kept its promises: no wrong connection hung up, no alert lost,
// no scrape failed, and as much memory and as many goroutines and descriptors at the
// end as before.
//
// Applications (application.go) open and close connections to the destinations of
// destinations.go, on few ports, and tell how each of them ended. Meanwhile metrics
// are scraped, alerts are posted, the configuration is rewritten, everything is
// paused, and things go wrong (faults.go). What the applications tell is judged by
// what alerts had asked for at that moment (judge.go), without asking tcphup.
//
// All of it runs in network, mount and process id namespaces of its own, with a
// tmpfs for its files, and ends with them. Run it as root: make soak DURATION=10m
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

// What a process of this program calls itself, apart from the first.
const (
	insideName      = "soak-inside" // in namespaces of its own
	applicationName = "soak-application"
	serverName      = "soak-server"
)

type options struct {
	tcphup        string
	report        string
	duration      time.Duration
	scrapeTimeout time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.tcphup, "tcphup", "tcphup", "`path` of the program to soak")
	flag.DurationVar(&o.duration, "duration", 10*time.Minute, "how long to keep it busy")
	flag.DurationVar(&o.scrapeTimeout, "scrape-timeout", 10*time.Second, "a scrape that takes longer has failed; Prometheus has 10s")
	flag.StringVar(&o.report, "report", "", "`file` to which the report is written as Markdown")
	flag.Parse()
	run := outside
	switch os.Args[0] {
	case applicationName:
		run = application
	case serverName:
		run = server
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

// outside starts this program once more, in namespaces of its own, and waits for its
// end. Whatever ends the one inside, or both, takes along all that it has started.
func outside(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("must run as root: it makes namespaces of its own")
	}
	if o.duration < shortest {
		return fmt.Errorf("-duration must be at least %s", shortest)
	}
	for _, program := range []string{o.tcphup, "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("needs %s (tcphup: make build; ip, on Debian and Ubuntu: apt-get install iproute2): %w", program, err)
		}
	}
	if err := netns.Reexec(insideName); errors.Is(err, netns.ErrInterrupted) {
		return err
	} else if err != nil {
		return fmt.Errorf("a promise was broken: %w", err)
	}
	return nil
}
