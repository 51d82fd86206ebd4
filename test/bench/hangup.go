package main

import (
	"errors"
	"strings"
)

// Names of the measured commands in the report; ss -tnp only lists.
const (
	shutdownName = "tcphup HOST PORT"
	destroyName  = "tcphup --method=destroy"
	ssKillName   = "ss -K"
	ssListName   = "ss -tnp"
)

// hungFlows is the number of flows that one command hangs up.
const hungFlows = 100

// hangUps are the samples of hang-ups at one load.
type hangUps struct {
	Sockets int
	results
}

// hangUp measures commands that hang up flows, from process start to exit. It also
// measures ss -tnp with the same filter: the usual cost of a lookup of flow owners. Each
// command gets new flows.
func (r *report) hangUp(o options, sockets int) (out *hangUps, err error) {
	s, err := startService()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	flows := min(hungFlows, sockets/2)
	// command returns a turn that hangs up the flows with a command.
	command := func(reset bool, name string, args ...string) func() (sample, error) {
		return func() (sample, error) {
			if err := s.connect(flows); err != nil {
				return sample{}, err
			}
			took, err := timed(name, args...)
			if err != nil {
				return took, err
			}
			_, err = s.wait(flows, reset)
			return took, errors.Join(err, dropTimeWait())
		}
	}
	candidates := []candidate{
		{shutdownName, command(false, o.tcphup, s.host(), s.port())},
		{ssListName, func() (sample, error) {
			if err := s.connect(flows); err != nil {
				return sample{}, err
			}
			took, err := timed("ss", append([]string{"-Htnp"}, s.filter()...)...)
			if err != nil {
				return took, err
			}
			// ss -tnp leaves the flows open.
			if _, err := run(o.tcphup, s.host(), s.port()); err != nil {
				return took, err
			}
			_, err = s.wait(flows, false)
			return took, errors.Join(err, dropTimeWait())
		}},
	}
	if o.old != "" {
		candidates = append(candidates, candidate{oldShutdownName, command(false, o.old, s.host(), s.port())})
	}
	if r.Destroy {
		candidates = append(candidates,
			candidate{destroyName, command(true, o.tcphup, "--method=destroy", s.host(), s.port())},
			candidate{ssKillName, command(true, "ss", append([]string{"-K"}, s.filter()...)...)})
	}
	if _, err := runRounds(1, candidates); err != nil {
		return nil, err
	}
	out = &hangUps{Sockets: sockets}
	out.results, err = runRounds(o.rounds, candidates)
	return out, err
}

// probePeers detects whether the kernel supports SOCK_DESTROY.
func (r *report) probePeers() error {
	s, err := startService()
	if err != nil {
		return err
	}
	defer func() { _ = s.stop() }() // no measurement depends on it
	if err := s.connect(1); err != nil {
		return err
	}
	// Without CONFIG_INET_DIAG_DESTROY, ss -K exits with 0 and prints no socket.
	out, err := run("ss", append([]string{"-HK"}, s.filter()...)...)
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) == "" {
		r.skip(ssKillName+" and "+destroyName, "kernel without CONFIG_INET_DIAG_DESTROY")
		return nil
	}
	r.Destroy = true
	_, err = s.wait(1, true)
	return err
}
