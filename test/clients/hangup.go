package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// hangUp runs tcphup and compares its outcomes with the states that ss then shows.
func hangUp(ctx context.Context, o options, h *host, port int, r *result) error {
	out, err := h.output(ctx, "", o.tcphup, "--output=json", serverAddress, strconv.Itoa(port))
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return err
	}
	var report struct {
		Flows []struct{ Local, Method, Outcome, Reason string }
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return fmt.Errorf("decode report: %w", err)
	}
	flows, err := h.flows(ctx, port)
	if err != nil {
		return err
	}
	if len(report.Flows) == 0 {
		r.outcomes = []string{"no match"}
	}
	for _, f := range report.Flows {
		state := "closed"
		for _, other := range flows {
			if strings.HasSuffix(f.Local, ":"+strconv.Itoa(int(other.port))) {
				state = other.state
			}
		}
		if !confirms(f.Outcome, state) {
			r.untrue = true
		}
		text := f.Outcome + " by " + f.Method
		if f.Reason != "" {
			text = f.Outcome + " (" + f.Reason + ")"
		}
		if !slices.Contains(r.outcomes, text) {
			r.outcomes = append(r.outcomes, text)
		}
	}
	slices.Sort(r.outcomes)
	return nil
}

// confirms reports whether a state of a connection after the action agrees with an outcome. A
// half-closed connection may have ended since.
func confirms(outcome, state string) bool {
	switch outcome {
	case "closed", "gone":
		return state == "closed" || state == "TIME-WAIT"
	case "half_closed":
		return slices.Contains([]string{"FIN-WAIT-2", "closed", "TIME-WAIT"}, state)
	case "lingering":
		return slices.Contains([]string{"FIN-WAIT-1", "closed"}, state)
	}
	return state == "ESTAB"
}
