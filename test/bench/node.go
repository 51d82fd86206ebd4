package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	agentName    = "tcphup serve --node"
	twoDumpsName = "two dumps in each namespace"
	sidecarsName = "a sidecar in each namespace"
	// agentAddress is the listen address of the agent.
	agentAddress = "127.0.0.1:10475"
)

// shape describes the pods of a node.
type shape struct {
	Pods, Sockets int // Sockets in each pod
	// Uneven is set if every tenth pod has 1,000 sockets.
	Uneven bool
	// Own is set if each pod has a connection table of its own.
	Own bool
	// most is the goal for agent ÷ two dumps, without a table of its own; 0: none.
	most float64
	// beside measures sidecars and a client in a pod, too.
	beside bool
}

// shapes are those of the goals.
var shapes = []shape{
	{Pods: 110, Sockets: 50, most: 0.7, beside: true},
	{Pods: 110, Sockets: 50, Uneven: true},
	{Pods: 110, Sockets: 50, Own: true, most: 0.25},
	{Pods: 500, Sockets: 100, most: 0.6},
	{Pods: 500, Sockets: 100, Own: true, most: 0.05},
}

// busyPod is the number of sockets in every tenth pod of an uneven node.
const busyPod = 1_000

// sockets returns the number of sockets of each pod.
func (s shape) sockets() []int {
	all := slices.Repeat([]int{s.Sockets}, s.Pods)
	for i := 0; s.Uneven && i < len(all); i += 10 {
		all[i] = busyPod
	}
	return all
}

// rounds returns the number of rounds: fewer on large nodes, where each takes seconds.
func (s shape) rounds(o options) int {
	if s.Pods >= 500 {
		return max(1, o.rounds/3)
	}
	return o.rounds
}

func (s shape) String() string {
	text := fmt.Sprintf("%s pods × %s sockets", thousands(s.Pods), thousands(s.Sockets))
	if s.Uneven {
		text += ", every tenth pod " + thousands(busyPod)
	}
	return text
}

// node has the samples of a node agent at one shape.
type node struct {
	shape
	results
	neighbor latencies
}

// nodes measures the agent at all shapes. A smaller bench has fewer pods.
func (r *report) nodes(o options) error {
	if !hasOwnHash() {
		r.skip("pods with connection tables of their own", "no "+ownHash+": needs Linux 6.1")
	}
	for _, s := range shapes {
		if s.Own && !hasOwnHash() {
			continue
		}
		s.Pods = min(s.Pods, max(2, o.sockets/100))
		if err := r.node(o, s); err != nil {
			return fmt.Errorf("node of %s: %w", s, err)
		}
	}
	return nil
}

// node measures the agent and the floor: one process that dumps IPv4 and IPv6 in each
// namespace, one after the other, and discards the sockets.
func (r *report) node(o options, s shape) (err error) {
	progress("node: %s, own connection tables: %t", s, s.Own)
	pods, err := startPods(s.sockets(), s.Own)
	defer func() { err = errors.Join(err, pods.stop()) }()
	if err != nil {
		return err
	}
	agent, err := startServer(agentAddress, "/-/ready", o.tcphup, "serve", "--node", "--node.pod-logs="+pods.logs, "--node.cpu-budget=0",
		"--web.listen-address="+agentAddress, "--alerts.listen-address=")
	if err != nil {
		return err
	}
	running := true
	defer func() {
		if running {
			err = errors.Join(err, agent.stop())
		}
	}()
	floor, err := startHelper(nodeFloorName, nil, pods.processes()...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.stop()) }()
	out := &node{shape: s}
	candidates := []candidate{
		{agentName, func() (sample, error) {
			sample, body, err := agent.scrape()
			return sample, errors.Join(err, pods.check(body))
		}},
		{twoDumpsName, func() (sample sample, err error) {
			err = floor.request("go", (*int64)(&sample.wall), (*int64)(&sample.cpu), new(int))
			return sample, err
		}},
	}
	var sockets int
	if err := floor.request(countLine, new(int64), new(int64), &sockets); err != nil {
		return err
	}
	if sockets < pods.sockets() {
		return fmt.Errorf("%d sockets in two dumps of each namespace, want %d", sockets, pods.sockets())
	}
	if _, err := runRounds(2, candidates); err != nil {
		return err
	}
	if out.results, err = runRounds(s.rounds(o), candidates); err != nil {
		return err
	}
	if s.beside {
		if out.neighbor, err = pods.neighbor(o, agent); err != nil {
			return fmt.Errorf("client in a pod: %w", err)
		}
		running = false
		if err := agent.stop(); err != nil {
			return err
		}
		if out.results[sidecarsName], err = pods.sidecars(o); err != nil {
			return fmt.Errorf("sidecars: %w", err)
		}
	}
	r.Nodes = append(r.Nodes, out)
	return nil
}

// check checks that a scrape has all flows of all pods.
func (p *pods) check(body string) error {
	read, err := value(body, `tcphup_node_namespaces{result="read"}`)
	if err != nil {
		return err
	}
	// Each connection has one outbound flow.
	outbound, of := 0, make(map[string]bool)
	for line := range strings.Lines(body) {
		labels, ok := strings.CutPrefix(line, "tcphup_sockets{")
		if !ok {
			continue
		}
		var n int
		if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &n); err != nil {
			return err
		}
		outbound += n
		_, pod, _ := strings.Cut(labels, `pod="`)
		pod, _, _ = strings.Cut(pod, `"`)
		of[pod] = true
	}
	if int(read) != len(p.all) || len(of) != len(p.all) || outbound < p.sockets()/2 {
		return fmt.Errorf("check scrape: %v namespaces read, %d pods, %d outbound flows; want %d, %d and %d",
			read, len(of), outbound, len(p.all), len(p.all), p.sockets()/2)
	}
	return nil
}

// sidecars measures the scrapes of a sidecar in each pod. One sample has all of them.
func (p *pods) sidecars(o options) (samples []sample, err error) {
	var servers []*server
	defer func() {
		for _, s := range servers {
			err = errors.Join(err, s.stop())
		}
	}()
	for _, one := range p.all {
		s, err := startServerIn(one.ns.Do, tcphupAddress, "/-/ready", o.tcphup, scrapeArguments(tcphupAddress)...)
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	const warmUp = 2
	for range warmUp + o.rounds {
		var all sample
		for _, s := range servers {
			one, _, err := s.scrape()
			if err != nil {
				return nil, err
			}
			all.wall += one.wall
			all.cpu += one.cpu
			all.memory += one.memory
		}
		samples = append(samples, all)
	}
	return samples[warmUp:], nil
}

// latencies are request times of a client by what happens meanwhile.
type latencies map[string][]time.Duration

const (
	noScrape      = "no scrape"
	duringScrapes = "scrapes one after the other"
)

// neighbor measures the requests of an HTTP client to a server in one pod, with and without
// scrapes of the agent.
func (p *pods) neighbor(o options, agent *server) (all latencies, err error) {
	var client *helper
	err = p.all[0].ns.Do(func() error {
		client, err = startHelper(neighborName, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.stop()) }()
	all = make(latencies)
	for range o.rounds {
		for _, when := range []string{noScrape, duringScrapes} {
			took, err := client.requests(func() error {
				if when == noScrape {
					return nil
				}
				_, err := agent.get("/metrics")
				return err
			})
			if err != nil {
				return nil, err
			}
			all[when] = append(all[when], took...)
		}
	}
	return all, nil
}

// NodeTable compares the agent with the floor.
func (r *report) NodeTable() string {
	var b strings.Builder
	table(&b, "node", "table of its own", "agent, processor time, ms", twoDumpsName+", ms", "agent ÷ two dumps", "agent ÷ two dumps without a table of its own", "agent, scrape, ms", "agent, resident, MB")
	for _, n := range r.Nodes {
		own := "no"
		if n.Own {
			own = "yes"
		}
		b.WriteString(row(n.String(), own, spread(n.of(agentName, cpu)), spread(n.of(twoDumpsName, cpu)),
			times(n.ratio(agentName, twoDumpsName, cpu)), "**"+times(r.toShared(n))+"**",
			spread(n.of(agentName, wall)), megabytes(n.memory(agentName))))
	}
	return b.String()
}

// toShared returns the ratio of the agent's processor time to that of the floor at the same
// shape without a table of its own; 0 without such a node.
func (r *report) toShared(n *node) float64 {
	for _, other := range r.Nodes {
		if !other.Own && other.Pods == n.Pods && other.Sockets == n.Sockets && other.Uneven == n.Uneven {
			return float64(median(n.of(agentName, cpu))) / float64(median(other.of(twoDumpsName, cpu)))
		}
	}
	return 0
}

// SidecarTable compares the agent with a sidecar in each pod.
func (r *report) SidecarTable() string {
	var b strings.Builder
	table(&b, "node", "program", "processor time per scrape interval, ms", "resident, MB")
	for _, n := range r.Nodes {
		for _, name := range []string{agentName, sidecarsName} {
			if n.beside {
				b.WriteString(row(n.String(), name, spread(n.of(name, cpu)), megabytes(n.memory(name))))
			}
		}
	}
	return b.String()
}

// NeighborTable has the request times of a client in a pod.
func (r *report) NeighborTable() string {
	var b strings.Builder
	table(&b, "node", "meanwhile", "requests", "p50, ms", "p99, ms", "p99.9, ms")
	for _, n := range r.Nodes {
		for _, when := range []string{noScrape, duringScrapes} {
			if took := n.neighbor[when]; len(took) > 0 {
				slices.Sort(took)
				b.WriteString(row(n.String(), when, thousands(len(took)), ms(percentile(took, 50)), ms(percentile(took, 99)), ms(took[len(took)*999/1000])))
			}
		}
	}
	return b.String()
}

func (r *report) nodeGoals() (goals []goal) {
	const resident = 40 // megabytes
	for _, n := range r.Nodes {
		what, how := n.String(), "medians of processor time; the floor dumps IPv4 and IPv6 in each namespace"
		if n.Own {
			what += ", each pod with a connection table of its own"
			how += ", without tables of their own"
		}
		if !slices.ContainsFunc(shapes, func(s shape) bool { return s == n.shape }) {
			continue
		}
		if n.most > 0 {
			ratio := r.toShared(n)
			goals = append(goals, goal{fmt.Sprintf("agent ÷ floor ≤ %v: %s", n.most, what), times(ratio), verdict(ratio <= n.most), how})
		}
		most := n.memory(agentName)
		goals = append(goals, goal{
			fmt.Sprintf("resident ≤ %d MB: agent, %s", resident, what), megabytes(most) + " MB", verdict(most <= resident*1_000_000),
			"VmRSS of `tcphup serve --node` after each scrape, maximum",
		})
	}
	return goals
}
