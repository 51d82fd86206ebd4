package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Names of the readers in the report.
const (
	scrapeName   = "tcphup's scrape"
	discardName  = "floor"
	ssName       = "ss -tain"
	exporterName = "node_exporter"
)

// Listen addresses of the servers.
const (
	tcphupAddress       = "127.0.0.1:10471"
	oldAddress          = "127.0.0.1:10473"
	nodeExporterAddress = "127.0.0.1:9100"
)

// candidate is a measured program; turn runs it once.
type candidate struct {
	name string
	turn func() (sample, error)
}

// runRounds runs every candidate once a round, in rotating order: the first of a round is
// the last of the next.
func runRounds(rounds int, candidates []candidate) (results, error) {
	all := make(results)
	for round := range rounds {
		for i := range candidates {
			c := candidates[(round+i)%len(candidates)]
			s, err := c.turn()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			all[c.name] = append(all[c.name], s)
		}
	}
	return all, nil
}

// reading has the samples of all readers at one load.
type reading struct {
	Sockets, Destinations int
	Families              families
	results
	read      []time.Duration // per scrape, time to read the TCP sockets
	Allocated int             // bytes allocated per scrape
	Body      int             // size of a scrape in bytes
}

// read measures the readers after two warm-up rounds.
func (r *report) read(o options, sockets, destinations int) (out *reading, err error) {
	out = &reading{Sockets: sockets, Destinations: destinations}
	var stops []func() error
	defer func() {
		for _, stop := range stops {
			err = errors.Join(err, stop())
		}
	}()
	tcphup, err := startServer(tcphupAddress, "/-/ready", o.tcphup, scrapeArguments(tcphupAddress)...)
	if err != nil {
		return nil, err
	}
	stops = append(stops, tcphup.stop)
	floor, err := startHelper(floorName, nil)
	if err != nil {
		return nil, err
	}
	stops = append(stops, floor.stop)
	listing, lines, err := peak("ss", "-Htain")
	if err != nil {
		return nil, fmt.Errorf("ss: %w", err)
	}
	if lines < sockets {
		return nil, fmt.Errorf("run ss: %d lines for %d sockets", lines, sockets)
	}
	var last string
	candidates := []candidate{
		{scrapeName, func() (s sample, err error) {
			s, last, err = tcphup.scrape()
			return s, errors.Join(err, checkScrape(last, out))
		}},
		{discardName, func() (s sample, err error) {
			if err := floor.request("go", (*int64)(&s.wall), (*int64)(&s.cpu)); err != nil {
				return s, err
			}
			s.memory, err = status(floor.cmd.Process.Pid, "VmRSS")
			return s, err
		}},
		{ssName, func() (sample, error) {
			s, err := timed("ss", "-tain")
			s.memory = listing
			return s, err
		}},
	}
	if o.old != "" {
		old, err := startServer(oldAddress, "/-/ready", o.old, scrapeArguments(oldAddress)...)
		if err != nil {
			return nil, err
		}
		stops = append(stops, old.stop)
		candidates = append(candidates, candidate{oldScrapeName, func() (sample, error) {
			s, _, err := old.scrape()
			return s, err
		}})
	}
	if r.NodeExporter != "" {
		exporter, err := startServer(nodeExporterAddress, "/metrics", nodeExporterProgram,
			"--web.listen-address="+nodeExporterAddress, "--collector.disable-defaults", "--collector.tcpstat")
		if err != nil {
			return nil, err
		}
		stops = append(stops, exporter.stop)
		candidates = append(candidates, candidate{exporterName, func() (sample, error) {
			s, body, err := exporter.scrape()
			if err == nil && !strings.Contains(body, `node_scrape_collector_success{collector="tcpstat"} 1`) {
				err = errors.New("collector tcpstat failed")
			}
			return s, err
		}})
	}

	if _, err := runRounds(2, candidates); err != nil {
		return nil, err
	}
	out.read = nil
	before, err := value(last, "go_memstats_alloc_bytes_total")
	if err != nil {
		return nil, err
	}
	if out.results, err = runRounds(o.rounds, candidates); err != nil {
		return nil, err
	}
	after, err := value(last, "go_memstats_alloc_bytes_total")
	out.Allocated = int(after-before) / o.rounds
	out.Body = len(last)
	return out, err
}

// scrapeArguments returns the arguments of a tcphup without alert receiver.
func scrapeArguments(address string) []string {
	return []string{"serve", "--web.listen-address=" + address, "--alerts.listen-address="}
}

// checkScrape checks that a scrape has all flows of the load, and records its duration.
func checkScrape(body string, r *reading) error {
	ok, err := value(body, `tcphup_scrape_success{source="tcp"}`)
	if err != nil {
		return err
	}
	seconds, err := value(body, `tcphup_scrape_duration_seconds{source="tcp"}`)
	if err != nil {
		return err
	}
	r.read = append(r.read, time.Duration(seconds*float64(time.Second)))
	// Each connection has one outbound flow.
	outbound := 0
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "tcphup_sockets{") {
			var n int
			if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &n); err != nil {
				return err
			}
			outbound += n
		}
	}
	if ok != 1 || outbound < r.Sockets/2 {
		return fmt.Errorf("check scrape: success %v, %d outbound flows, want %d", ok, outbound, r.Sockets/2)
	}
	return nil
}
