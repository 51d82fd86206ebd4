// Bench compares tcphup with ss and node_exporter, as ratios of medians from one run on
// one machine. On loads of up to 200,000 sockets it measures in interleaved rounds:
//
//   - scraping a namespace without connections (idle.go), as an idle sidecar does;
//   - reading all sockets (read.go): a scrape of tcphup, a receive-and-discard loop
//     (the floor), ss, and node_exporter;
//   - hanging up (hangup.go): the tcphup command, ss -K and ss -tnp;
//   - the time from an alert to the last FIN (alert.go), and ss -K;
//   - a node agent beside a loop over the namespaces of pods, sidecars and a client (node.go).
//
// All processes run in private network, mount and pid namespaces and end with them.
// Run it as root at the top of the repository: make bench
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/netns"
)

// insideName is argv[0] of the process inside the private namespaces.
const insideName = "bench-inside"

// nodeExporterProgram is Debian's name of the binary.
const nodeExporterProgram = "prometheus-node-exporter"

type options struct {
	tcphup  string
	old     string // earlier program to compare with; empty: none
	sockets int    // in the largest load
	rounds  int    // of all measurements except alerts
	alerts  int    // rounds of alerts at the smallest load
	parts   string // file with the output of `go test -bench`; empty: none
	docs    string // directory for the report and the series; empty: print only
}

// sizes returns the sizes of the loads in sockets, in ascending order.
func (o options) sizes() []int {
	all := []int{1_000, 10_000, 50_000, 100_000, 200_000}
	some := slices.DeleteFunc(all, func(n int) bool { return n >= o.sockets })
	return append(some, o.sockets)
}

func main() {
	helpers := map[string]func([]string) error{loadName: load, floorName: floor, applicationName: application, nodeFloorName: nodeFloor, neighborName: neighbor}
	if helper := helpers[filepath.Base(os.Args[0])]; helper != nil {
		exit(helper(os.Args[1:]))
		return
	}
	var o options
	flag.StringVar(&o.tcphup, "tcphup", "tcphup", "`path` of the program to measure")
	flag.StringVar(&o.old, "old", "", "`path` of an earlier tcphup, measured in the same rounds")
	flag.IntVar(&o.sockets, "sockets", 200_000, "sockets in the largest load")
	flag.IntVar(&o.rounds, "rounds", 15, "rounds; each program runs once a round")
	flag.IntVar(&o.alerts, "alerts", 300, "alerts at the smallest load")
	flag.StringVar(&o.parts, "parts", "", "`file` with the output of go test -bench, for the report")
	flag.StringVar(&o.docs, "docs", "", "write benchmarks.md and benchmarks.csv to this `directory`")
	flag.Parse()
	run := outside
	if os.Args[0] == insideName {
		run = inside
	}
	var err error
	for _, path := range []*string{&o.tcphup, &o.old} {
		if *path != "" && err == nil {
			*path, err = filepath.Abs(*path)
		}
	}
	if err == nil {
		err = run(o)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

// outside starts this program again in private namespaces and waits for its end. When
// the inner process ends, the kernel kills all other processes of its pid namespace.
func outside(o options) error {
	switch {
	case os.Geteuid() != 0:
		return errors.New("must run as root: creates namespaces")
	case o.old != "" && o.docs != "":
		return errors.New("-docs and -old exclude each other: the report has one program")
	case o.sockets < 100 || o.rounds < 1 || o.alerts < 1:
		return errors.New("value too small: minimum is -sockets=100, -rounds=1, -alerts=1")
	}
	var missing []string
	for _, program := range []string{o.tcphup, o.old, "ip", "ss"} {
		if program == "" {
			continue
		}
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing programs: %s (tcphup: make build; others on Debian and Ubuntu: apt-get install iproute2)", strings.Join(missing, " "))
	}
	return netns.Reexec(insideName)
}

// dir holds all files of the bench: a tmpfs mounted in the bench's mount namespace only,
// over a directory that exists on all systems.
const dir = "/dev/shm"

// inside measures and writes the report. It runs in the namespaces created by outside.
func inside(o options) error {
	parts, err := readParts(o.parts)
	if err != nil {
		return err
	}
	if err := netns.Prepare(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	// Makes the whole prefix local, like 127.0.0.0/8.
	if _, err := run("ip", "-6", "route", "add", "local", prefix6+"/32", "dev", "lo"); err != nil {
		return err
	}
	r := report{Sizes: o.sizes(), Rounds: o.rounds, Parts: parts}
	if err := r.describe(o); err != nil {
		return err
	}
	if err := r.measure(o); err != nil {
		return err
	}
	return r.write(o.docs)
}

// measure creates one load after the other and measures each.
func (r *report) measure(o options) error {
	if err := r.probePeers(); err != nil {
		return err
	}
	if err := r.idleScrapes(o, 0); err != nil {
		return fmt.Errorf("scrape idle namespace: %w", err)
	}
	for i, size := range r.Sizes {
		first, last := i == 0, i == len(r.Sizes)-1
		if first || last || size == middle {
			if err := r.underLoad(o, size, fewDestinations(size), false); err != nil {
				return err
			}
		}
		if err := r.underLoad(o, size, manyDestinations(size), first || last); err != nil {
			return err
		}
	}
	if err := r.oneFamily(o); err != nil {
		return err
	}
	return r.nodes(o)
}

// withLoad creates a load, measures reading and calls next with the result.
func (r *report) withLoad(o options, sockets, destinations int, in families, next func(*reading, loads) error) (err error) {
	if err := dropTimeWait(); err != nil {
		return err
	}
	progress("%s sockets to %s destinations, address family: %s", thousands(sockets), thousands(destinations), in)
	loads, err := startLoad(sockets, destinations, in, r.MPTCP && in == mixed)
	defer func() { err = errors.Join(err, loads.stop()) }()
	if err != nil {
		return err
	}
	reading, err := r.read(o, sockets, destinations)
	if err != nil {
		return fmt.Errorf("read %d sockets: %w", sockets, err)
	}
	reading.Families = in
	return next(reading, loads)
}

// underLoad creates a mixed load and measures reading and, with hangingUp, hang-ups and
// alerts.
func (r *report) underLoad(o options, sockets, destinations int, hangingUp bool) error {
	return r.withLoad(o, sockets, destinations, mixed, func(reading *reading, all loads) error {
		r.Readings = append(r.Readings, reading)
		return r.measureOthers(o, reading, all, hangingUp)
	})
}

// measureOthers measures an idle sidecar beside a load and, with hangingUp, hang-ups and
// alerts.
func (r *report) measureOthers(o options, load *reading, all loads, hangingUp bool) error {
	sockets := load.Sockets
	if sockets == crowded && load.Destinations == manyDestinations(sockets) {
		if err := r.idleScrapes(o, sockets); err != nil {
			return fmt.Errorf("scrape idle namespace: %w", err)
		}
	}
	if !hangingUp {
		return nil
	}
	hung, err := r.hangUp(o, sockets)
	if err != nil {
		return fmt.Errorf("hang up among %d sockets: %w", sockets, err)
	}
	r.HangUps = append(r.HangUps, hung)
	for _, killed := range []bool{false, true} {
		if killed {
			if err := all.resetSIGPIPE(); err != nil {
				return err
			}
		}
		alert, err := r.alert(o, sockets)
		if err != nil {
			return fmt.Errorf("alert among %d sockets: %w", sockets, err)
		}
		alert.Killed = killed
		r.Alerts = append(r.Alerts, alert)
	}
	return nil
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
