package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tcphup/test/kit/netns"
)

// inside runs all clients in the namespaces created by outside.
func inside(o options) error {
	if err := netns.Prepare(); err != nil {
		return err
	}
	for _, path := range []*string{&o.tcphup, &o.cache, &o.programs} {
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	ctx := context.Background()
	chosen, err := choose(o)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := startServers(ctx); err != nil {
		return err
	}
	progress("all servers serve after %s", time.Since(start).Round(time.Second))
	hosts := 0
	for _, s := range situations() {
		for _, c := range chosen {
			if s.failsOver() && c.has(s.operation) {
				hosts++
			}
		}
	}
	around, err := startSite(hosts)
	if err != nil {
		return err
	}
	t := runAll(ctx, o, chosen, around)
	progress("all clients done after %s", time.Since(start).Round(time.Second))
	return t.finish(o)
}

func choose(o options) (chosen []client, err error) {
	if o.only == "" {
		return clients(), nil
	}
	for name := range strings.SplitSeq(o.only, ",") {
		before := len(chosen)
		for _, c := range clients() {
			if c.program == name || c.name == name || c.language == name || c.server == name {
				chosen = append(chosen, c)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("-only: no client %q", name)
		}
	}
	return chosen, nil
}

// runAll runs each client in each situation. Those that only wait release their slot.
func runAll(ctx context.Context, o options, chosen []client, around *site) *table {
	t := &table{cells: make(map[string]map[string]cell)}
	busy := make(chan struct{}, o.parallel)
	var (
		running sync.WaitGroup
		lock    sync.Mutex
		number  atomic.Int32
	)
	for _, c := range chosen {
		t.clients = append(t.clients, c)
		t.cells[c.name] = make(map[string]cell)
	}
	all := situations()
	// Those that wait longest start first.
	slices.SortStableFunc(all, func(a, b situation) int {
		return strings.Compare(order(a), order(b))
	})
	for _, s := range all {
		for _, c := range chosen {
			if !c.has(s.operation) {
				continue
			}
			busy <- struct{}{}
			running.Go(func() {
				release := sync.OnceFunc(func() { <-busy })
				defer release()
				start := time.Now()
				r, err := s.run(ctx, o, c, around, func() int { return int(number.Add(1)) }, release)
				done := cell{result: r, err: err}
				progress("%-28s %-24s %5.1f s  %s", c.name, s.name, time.Since(start).Seconds(), done.detail())
				lock.Lock()
				defer lock.Unlock()
				t.cells[c.name][s.name] = done
			})
		}
	}
	running.Wait()
	for _, d := range drains() {
		if slices.ContainsFunc(chosen, func(c client) bool { return c.name == d.client.name }) {
			d.err = d.run(ctx, o, int(number.Add(1)))
			progress("%-28s %-24s %s", d.client.name, d.situation(), d.text())
			t.drains = append(t.drains, d)
		}
	}
	return t
}

// order returns the sort key of a situation.
func order(s situation) string {
	if s.failsOver() {
		return ""
	}
	return s.action
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// cell is the result of a client in a situation, or the reason why there is none.
type cell struct {
	result
	err error
}

func (c cell) text() string {
	if c.err != nil {
		return "did not run"
	}
	return c.result.text()
}

// detail adds times and errors to the text.
func (c cell) detail() string {
	if c.err != nil {
		return c.text() + ": " + c.err.Error()
	}
	return fmt.Sprintf("%s; freed %.2f s, recovered %.2f s %s", c.text(), c.freed.Seconds(), c.took.Seconds(), strings.Join(c.errors, " / "))
}

// table has the results of a run.
type table struct {
	clients []client
	cells   map[string]map[string]cell // by client and situation
	drains  []*drain
}
