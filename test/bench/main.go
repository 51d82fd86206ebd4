// The bench says what tcphup costs, beside programs that people know, in ratios that
// come from one run on one machine. On loads of up to 200,000 sockets it measures, in
// rounds in which everyone has a turn:
//
//   - reading all sockets (read.go): a scrape of tcphup, a loop that receives the
//     same and throws it away, ss, and node_exporter;
//   - hanging up (hangup.go): the command, beside ss -K and ss -tnp;
//   - from an alert to the last FIN (alert.go), beside ss -K.
//
// All of it runs in network, mount and process id namespaces of its own and ends with
// them. Run it as root, at the top of the repository: make bench
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

// insideName is what the process calls itself that runs in namespaces of its own.
const insideName = "bench-inside"

// nodeExporterProgram has the name that Debian gives it.
const nodeExporterProgram = "prometheus-node-exporter"

type options struct {
	tcphup  string
	old     string // an earlier program to compare with; empty for none
	sockets int    // in the largest load
	rounds  int    // of everything but alerts
	alerts  int    // rounds of alerts at the smallest load
	parts   string // file with what `go test -bench` printed; empty for none
	docs    string // directory for the report and the series; empty to print only
}

// sizes are the loads that the options ask for, in sockets.
func (o options) sizes() []int {
	all := []int{1_000, 10_000, 50_000, 100_000, 200_000}
	some := slices.DeleteFunc(all, func(n int) bool { return n >= o.sockets })
	return append(some, o.sockets)
}

func main() {
	helpers := map[string]func([]string) error{loadName: load, floorName: floor, applicationName: application}
	if helper := helpers[filepath.Base(os.Args[0])]; helper != nil {
		exit(helper(os.Args[1:]))
		return
	}
	var o options
	flag.StringVar(&o.tcphup, "tcphup", "tcphup", "`path` of the program to measure")
	flag.StringVar(&o.old, "old", "", "`path` of an earlier tcphup, measured in the same rounds")
	flag.IntVar(&o.sockets, "sockets", 200_000, "how many sockets the largest load has")
	flag.IntVar(&o.rounds, "rounds", 15, "how often everyone has a turn")
	flag.IntVar(&o.alerts, "alerts", 300, "how many alerts at the smallest load")
	flag.StringVar(&o.parts, "parts", "", "`file` with the output of go test -bench, for the report")
	flag.StringVar(&o.docs, "docs", "", "`directory` in which to write benchmarks.md and benchmarks.csv")
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

// outside starts this program once more, in namespaces of its own, and waits for its
// end. Whatever ends the one inside, or both, takes along all that it has started.
func outside(o options) error {
	switch {
	case os.Geteuid() != 0:
		return errors.New("must run as root: it makes namespaces of its own")
	case o.old != "" && o.docs != "":
		return errors.New("-docs writes the figures of one program: leave out -old or -docs")
	case o.sockets < 100 || o.rounds < 1 || o.alerts < 1:
		return errors.New("needs 100 sockets, one round and one alert at least")
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
		return fmt.Errorf("needs: %s (tcphup: make build; the others, on Debian and Ubuntu: apt-get install iproute2)", strings.Join(missing, " "))
	}
	return netns.Reexec(insideName)
}

// dir holds the files of the bench: a tmpfs of its own over a directory that all
// systems have, in the bench's mount namespace alone.
const dir = "/dev/shm"

// inside measures and reports, in the namespaces that outside has made.
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
	// All of these addresses are this host's, as 127.0.0.0/8 is.
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

// measure makes one load after the other.
func (r *report) measure(o options) error {
	if err := r.probePeers(); err != nil {
		return err
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
	return nil
}

// underLoad measures reading, and hanging up too if asked for, on a load of its own.
func (r *report) underLoad(o options, sockets, destinations int, hangingUp bool) (err error) {
	if err := forget(); err != nil {
		return err
	}
	progress("%s sockets to %s destinations", thousands(sockets), thousands(destinations))
	loads, err := startLoad(sockets, destinations, r.MPTCP)
	defer func() { err = errors.Join(err, loads.stop()) }()
	if err != nil {
		return err
	}
	reading, err := r.read(o, sockets, destinations)
	if err != nil {
		return fmt.Errorf("read %d sockets: %w", sockets, err)
	}
	r.Readings = append(r.Readings, reading)
	if !hangingUp {
		return nil
	}
	hung, err := r.hangUp(o, sockets)
	if err != nil {
		return fmt.Errorf("hang up among %d sockets: %w", sockets, err)
	}
	r.HangUps = append(r.HangUps, hung)
	alert, err := r.alert(o, sockets)
	if err != nil {
		return fmt.Errorf("alert among %d sockets: %w", sockets, err)
	}
	r.Alerts = append(r.Alerts, alert)
	return nil
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
