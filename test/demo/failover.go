package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// play lets the service fail over twice, with tcphup and without.
func (s *stage) play(ctx context.Context) error {
	fmt.Println("\nWith tcphup:")
	with, err := s.failOverWithTcphup(ctx)
	if err != nil {
		return err
	}
	refusals := s.oldSite.answers.Load()

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
	fmt.Printf("without tcphup: %s; the demoted site refused %d requests\n", end, s.oldSite.answers.Load())
	return nil
}

// failOverWithTcphup returns how long it took until the application was on the new
// site.
func (s *stage) failOverWithTcphup(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, hangUpTimeout)
	defer cancel()
	begun, err := s.failOver()
	if err != nil {
		return 0, err
	}
	moved := s.applicationHasMoved()
	err = s.follow(ctx, begun,
		s.nameLeadsElsewhere(), addressIsFormer(), alertFires(), alertIsRouted(), alertmanagerNotifies(), tcphupHangsUp(),
		s.newSiteAnswers(), moved, alertResolves(moved))
	return moved.after, err
}

// failOverWithoutTcphup returns the same, and 0 when the application did not get
// there in the time that it was given after the change in the DNS.
func (s *stage) failOverWithoutTcphup(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, hangUpTimeout+s.without)
	defer cancel()
	begun, err := s.failOver()
	if err != nil {
		return 0, err
	}
	if err := s.follow(ctx, begun, s.nameLeadsElsewhere()); err != nil {
		return 0, err
	}
	watched, stop := context.WithTimeout(ctx, s.without)
	defer stop()
	moved := s.applicationHasMoved()
	err = s.follow(watched, begun, s.newSiteAnswers(), moved)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		tell(begun, "application: %d of its %d connections still lead to the old site", s.oldSite.connections.Load(), poolSize)
		return 0, nil
	}
	return moved.after, err
}

// failOver is what an operator or an orchestrator does: the old site is demoted, and
// the name given to the new one. Nobody tells the application.
func (s *stage) failOver() (begun time.Time, err error) {
	begun = time.Now()
	s.oldSite.answers.Store(0)
	s.newSite.answers.Store(0)
	s.oldSite.demoted.Store(true)
	if err := s.giveName(s.newSite); err != nil {
		return begun, err
	}
	tell(begun, "failover: %v is demoted, %s is given to %v", s.oldSite, serviceName, s.newSite)
	return begun, nil
}

// failBack goes back to the beginning, with an application that has just started.
func (s *stage) failBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	s.application.stop()
	s.oldSite.demoted.Store(false)
	if err := s.giveName(s.oldSite); err != nil {
		return err
	}
	return s.startApplication(ctx)
}

// follow prints events as they are seen, until all were; the end of the context is
// an error. They come in the order of cause and effect. Each round looks for the
// last one first, so what has caused an event is seen no later than the event, and
// printed before it.
func (s *stage) follow(ctx context.Context, begun time.Time, events ...*event) error {
	for news := newsInterval; ; {
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
				tell(begun, "%s", line)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Since(begun) >= news {
			tell(begun, "application: %d refusals of the old site so far", s.oldSite.answers.Load())
			news += newsInterval
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %q: %w", missing, context.Cause(ctx))
		}
	}
}

// tell prints a line with the time since the failover.
func tell(begun time.Time, format string, args ...any) {
	fmt.Printf("%+6.1f s  %s\n", time.Since(begun).Seconds(), fmt.Sprintf(format, args...))
}
