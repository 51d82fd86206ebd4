package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/actuator"
	"tcphup/hangup"
)

// probe is the command of the same name.
type probe struct {
	output string
	stdout io.Writer
}

func newProbe(cmd *kingpin.CmdClause) *probe {
	p := &probe{stdout: os.Stdout}
	cmd.Flag("output", "Form of the answers: table or json.").Default("table").EnumVar(&p.output, "table", "json")
	return p
}

type checkJSON struct {
	Name   string `json:"name"`
	Usable bool   `json:"usable"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// run exits with 1 when neither method can be used.
func (p *probe) run(ctx context.Context) (int, error) {
	checks := actuator.New(actuator.Config{}).Probe(ctx)
	var err error
	if p.output == "json" {
		out := make([]checkJSON, len(checks))
		for i, c := range checks {
			out[i] = checkJSON(c)
		}
		encoder := json.NewEncoder(p.stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(out)
	} else {
		err = writeChecks(p.stdout, checks)
	}
	if err != nil {
		return exitIncomplete, fmt.Errorf("write checks: %w", err)
	}
	for _, c := range checks {
		if c.Usable && (c.Name == string(hangup.Shutdown) || c.Name == string(hangup.Destroy)) {
			return exitDone, nil
		}
	}
	return exitIncomplete, nil
}

func writeChecks(w io.Writer, checks []actuator.Check) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range checks {
		answer := "no"
		if c.Usable {
			answer = "yes"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.Name, answer, visible(c.Detail))
		if c.Fix != "" {
			fmt.Fprintf(table, "\t\t-> %s\n", visible(c.Fix))
		}
	}
	return table.Flush()
}
