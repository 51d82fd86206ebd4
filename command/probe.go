package command

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/actuator"
	"tcphup/hangup"
	"tcphup/internal/text"
)

// probe implements tcphup probe.
type probe struct {
	output string
	stdout io.Writer
}

func newProbe(cmd *kingpin.CmdClause) *probe {
	p := &probe{stdout: os.Stdout}
	setChoice(cmd.Flag("output", "Output format: table or json.").Default("table"), &p.output, "table", "json")
	return p
}

type checkJSON struct {
	Name    string `json:"name"`
	Usable  bool   `json:"usable"`
	Pending bool   `json:"pending,omitempty"`
	Detail  string `json:"detail"`
	Fix     string `json:"fix,omitempty"`
}

// run returns ErrIncomplete if neither method works.
func (p *probe) run(ctx context.Context) error {
	checks := actuator.New(actuator.Config{}).Probe(ctx)
	var err error
	if p.output == "json" {
		out := make([]checkJSON, len(checks))
		for i, c := range checks {
			out[i] = checkJSON(c)
		}
		err = printJSON(p.stdout, out)
	} else {
		err = writeChecks(p.stdout, checks)
	}
	if err != nil {
		return fmt.Errorf("write checks: %w", err)
	}
	for _, c := range checks {
		if c.Usable && (c.Name == string(hangup.Shutdown) || c.Name == string(hangup.Destroy)) {
			return nil
		}
	}
	return ErrIncomplete
}

func writeChecks(w io.Writer, checks []actuator.Check) error {
	t := new(table)
	for _, c := range checks {
		usable := "no"
		if c.Usable {
			usable = "yes"
		}
		t.add(cell{text: c.Name}, cell{text: usable}, cell{text: text.Printable(c.Detail)})
		if c.Fix != "" {
			t.add(cell{}, cell{}, cell{text: "-> " + text.Printable(c.Fix)})
		}
	}
	return t.write(w, false)
}
