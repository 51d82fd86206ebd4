package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// play runs two failovers, with tcphup and without.
func (s *stage) play(ctx context.Context) error {
	fmt.Println("\nWith tcphup:")
	with, err := s.failOverWithTcphup(ctx)
	if err != nil {
		return err
	}
	refusals := s.oldSite.responses.Load()

	s.tcphup.stop()
	if err := s.failBack(ctx); err != nil {
		return err
	}
	fmt.Println("\nWithout tcphup:")
	without, err := s.failOverWithoutTcphup(ctx)
	if err != nil {
		return err
	}

	fmt.Printf("\nwith tcphup:    on the new site after %.1f s; the demoted site refused %d requests\n", with.Seconds(), refusals)
	end := fmt.Sprintf("on the new site after %.1f s", without.Seconds())
	if without == 0 {
		end = fmt.Sprintf("still on the old site after %.1f s", s.without.Seconds())
	}
	fmt.Printf("without tcphup: %s; the demoted site refused %d requests\n", end, s.oldSite.responses.Load())
	return nil
}

// failOverWithTcphup returns the time from the failover until all connections of the
// application are on the new site.
func (s *stage) failOverWithTcphup(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, hangUpTimeout)
	defer cancel()
	begun, err := s.failOver()
	if err != nil {
		return 0, err
	}
	moved := s.applicationHasMoved()
	err = s.follow(ctx, begun,
		s.nameResolvesToNewSite(), addressIsFormer(), alertFires(), alertIsRouted(), alertmanagerNotifies(), tcphupHangsUp(),
		s.newSiteResponds(), moved, alertResolves(moved))
	return moved.after, err
}

// failOverWithoutTcphup returns the same time; 0 when the application stays on the old site
// for the duration of -without after the DNS change.
func (s *stage) failOverWithoutTcphup(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, hangUpTimeout+s.without)
	defer cancel()
	begun, err := s.failOver()
	if err != nil {
		return 0, err
	}
	if err := s.follow(ctx, begun, s.nameResolvesToNewSite()); err != nil {
		return 0, err
	}
	watched, stop := context.WithTimeout(ctx, s.without)
	defer stop()
	moved := s.applicationHasMoved()
	err = s.follow(watched, begun, s.newSiteResponds(), moved)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		printEvent(begun, "application: %d of %d connections still on the old site", s.oldSite.connections.Load(), poolSize)
		return 0, nil
	}
	return moved.after, err
}

// failOver demotes the old site and changes the name to the new one, like an operator or an
// orchestrator. The application is not notified.
func (s *stage) failOver() (begun time.Time, err error) {
	begun = time.Now()
	s.oldSite.responses.Store(0)
	s.newSite.responses.Store(0)
	s.oldSite.demoted.Store(true)
	if err := s.moveName(s.newSite); err != nil {
		return begun, err
	}
	printEvent(begun, "failover: %v demoted, DNS record of %s set to %v", s.oldSite, serviceName, s.newSite)
	return begun, nil
}

// failBack restores the old site and restarts the application.
func (s *stage) failBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	s.application.stop()
	s.oldSite.demoted.Store(false)
	if err := s.moveName(s.oldSite); err != nil {
		return err
	}
	return s.startApplication(ctx)
}

// follow prints events as they occur and returns after the last; the end of ctx is an
// error. events are in causal order. Each round polls the last event first, so that a
// cause is never printed after its effect.
func (s *stage) follow(ctx context.Context, begun time.Time, events ...*event) error {
	for nextProgress := progressInterval; ; {
		var missing []string
		lines := make([]string, len(events))
		for i := len(events) - 1; i >= 0; i-- {
			if e := events[i]; e.after == 0 {
				if lines[i] = e.seen(ctx); lines[i] == "" {
					missing = append(missing, e.name)
				}
			}
		}
		for i, line := range lines {
			if line != "" {
				events[i].after = time.Since(begun)
				printEvent(begun, "%s", line)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Since(begun) >= nextProgress {
			printEvent(begun, "application: %d requests refused by the old site so far", s.oldSite.responses.Load())
			nextProgress += progressInterval
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("wait for %q: %w", missing, context.Cause(ctx))
		}
	}
}

// printEvent prints a line with the time since the failover.
func printEvent(begun time.Time, format string, args ...any) {
	fmt.Printf("%+6.1f s  %s\n", time.Since(begun).Seconds(), fmt.Sprintf(format, args...))
}
