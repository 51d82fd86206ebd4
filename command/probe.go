package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/actuator"
	"tcphup/hangup"
	"tcphup/internal/text"
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

// run returns ErrIncomplete when neither method can be used.
func (p *probe) run(ctx context.Context) error {
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
		answer := "no"
		if c.Usable {
			answer = "yes"
		}
		t.add(cell{text: c.Name}, cell{text: answer}, cell{text: text.Printable(c.Detail)})
		if c.Fix != "" {
			t.add(cell{}, cell{}, cell{text: "-> " + text.Printable(c.Fix)})
		}
	}
	return t.write(w, false)
}
