package main

import (
	"errors"
	"strings"
)

// Those who hang up, as the report calls them, and who only lists.
const (
	shutdownName = "tcphup HOST PORT"
	destroyName  = "tcphup --method=destroy"
	ssKillName   = "ss -K"
	ssListName   = "ss -tnp"
)

// hungFlows is how many flows of one application are hung up by one command.
const hungFlows = 100

// hangUps is what it took to hang up among the sockets of a load.
type hangUps struct {
	Sockets int
	results
}

// hangUp measures commands that hang up flows, each from its start as a process to its
// end; and ss -tnp with the same filter, which is the least that finding the owners of
// flows costs by the usual way. The flows are made anew for each.
func (r *report) hangUp(o options, sockets int) (out *hangUps, err error) {
	s, err := startService()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	flows := min(hungFlows, sockets/2)
	// act hangs them up by a command.
	act := func(reset bool, name string, args ...string) func() (sample, error) {
		return func() (sample, error) {
			if err := s.connect(flows); err != nil {
				return sample{}, err
			}
			took, err := timed(name, args...)
			if err != nil {
				return took, err
			}
			_, err = s.wait(flows, reset)
			return took, errors.Join(err, forget())
		}
	}
	contestants := []contestant{
		{shutdownName, act(false, o.tcphup, s.host(), s.port())},
		{ssListName, func() (sample, error) {
			if err := s.connect(flows); err != nil {
				return sample{}, err
			}
			took, err := timed("ss", append([]string{"-Htnp"}, s.filter()...)...)
			if err != nil {
				return took, err
			}
			// Nobody else ends these.
			if _, err := run(o.tcphup, s.host(), s.port()); err != nil {
				return took, err
			}
			_, err = s.wait(flows, false)
			return took, errors.Join(err, forget())
		}},
	}
	if o.old != "" {
		contestants = append(contestants, contestant{oldShutdownName, act(false, o.old, s.host(), s.port())})
	}
	if r.Destroy {
		contestants = append(contestants,
			contestant{destroyName, act(true, o.tcphup, "--method=destroy", s.host(), s.port())},
			contestant{ssKillName, act(true, "ss", append([]string{"-K"}, s.filter()...)...)})
	}
	if _, err := take(1, contestants); err != nil {
		return nil, err
	}
	out = &hangUps{Sockets: sockets}
	out.results, err = take(o.rounds, contestants)
	return out, err
}

// probePeers finds out who can take part.
func (r *report) probePeers() error {
	s, err := startService()
	if err != nil {
		return err
	}
	defer func() { _ = s.stop() }() // nothing is measured here
	if err := s.connect(1); err != nil {
		return err
	}
	// A kernel without INET_DIAG_DESTROY lets ss do nothing and say nothing.
	out, err := run("ss", append([]string{"-HK"}, s.filter()...)...)
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) == "" {
		r.leaveOut(ssKillName+" and "+destroyName, "the kernel has no CONFIG_INET_DIAG_DESTROY")
		return nil
	}
	r.Destroy = true
	_, err = s.wait(1, true)
	return err
}
