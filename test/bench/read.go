package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The readers, as the report calls them.
const (
	scrapeName   = "tcphup's scrape"
	discardName  = "floor"
	ssName       = "ss -tain"
	exporterName = "node_exporter"
)

// Where the servers listen.
const (
	tcphupAddress       = "127.0.0.1:10471"
	oldAddress          = "127.0.0.1:10473"
	nodeExporterAddress = "127.0.0.1:9100"
)

// contestant has a turn in each round.
type contestant struct {
	name string
	turn func() (sample, error)
}

// take gives everyone so many turns, one after the other. Who begins a round ends the
// next one.
func take(rounds int, contestants []contestant) (results, error) {
	all := make(results)
	for round := range rounds {
		for i := range contestants {
			c := contestants[(round+i)%len(contestants)]
			s, err := c.turn()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			all[c.name] = append(all[c.name], s)
		}
	}
	return all, nil
}

// reading is what it took to read a load.
type reading struct {
	Sockets, Destinations int
	results
	read      []time.Duration // of each scrape, the part that reads TCP sockets
	Allocated int             // bytes for one scrape
	Body      int             // bytes of a scrape
}

// read measures the readers. Each has read the load twice before it counts.
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
		return nil, fmt.Errorf("ss prints %d lines for %d sockets", lines, sockets)
	}
	var last string
	contestants := []contestant{
		{scrapeName, func() (s sample, err error) {
			s, last, err = tcphup.scrape()
			return s, errors.Join(err, mustRead(last, out))
		}},
		{discardName, func() (s sample, err error) {
			if err := floor.ask("go", (*int64)(&s.wall), (*int64)(&s.cpu)); err != nil {
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
		contestants = append(contestants, contestant{oldScrapeName, func() (sample, error) {
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
		contestants = append(contestants, contestant{exporterName, func() (sample, error) {
			s, body, err := exporter.scrape()
			if err == nil && !strings.Contains(body, `node_scrape_collector_success{collector="tcpstat"} 1`) {
				err = errors.New("the collector tcpstat failed")
			}
			return s, err
		}})
	}

	if _, err := take(2, contestants); err != nil {
		return nil, err
	}
	out.read = nil
	before, err := value(last, "go_memstats_alloc_bytes_total")
	if err != nil {
		return nil, err
	}
	if out.results, err = take(o.rounds, contestants); err != nil {
		return nil, err
	}
	after, err := value(last, "go_memstats_alloc_bytes_total")
	out.Allocated = int(after-before) / o.rounds
	out.Body = len(last)
	return out, err
}

// scrapeArguments start a tcphup that only exports.
func scrapeArguments(address string) []string {
	return []string{"serve", "--web.listen-address=" + address, "--alerts.listen-address="}
}

// mustRead checks that a scrape has read the load, and notes what the reading took.
func mustRead(body string, r *reading) error {
	ok, err := value(body, `tcphup_scrape_success{source="tcp"}`)
	if err != nil {
		return err
	}
	seconds, err := value(body, `tcphup_scrape_duration_seconds{source="tcp"}`)
	if err != nil {
		return err
	}
	r.read = append(r.read, time.Duration(seconds*float64(time.Second)))
	// Every connection has an end that was opened here.
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
		return fmt.Errorf("the scrape has success %v and shows %d outbound flows, want %d", ok, outbound, r.Sockets/2)
	}
	return nil
}
