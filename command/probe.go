package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/actuator"
	"tcphup/hangup"
	"tcphup/internal/text"
)

// probe implements tcphup probe.
type probe struct {
	output string
	netns  netnsFlag

	stdout, stderr io.Writer
}

func newProbe(cmd *kingpin.CmdClause) *probe {
	p := &probe{stdout: os.Stdout, stderr: os.Stderr}
	setChoice(cmd.Flag("output", "Output format: table or json.").Default("table"), &p.output, "table", "json")
	p.netns.addFlag(cmd)
	return p
}

type checkJSON struct {
	Name    string `json:"name"`
	Usable  bool   `json:"usable"`
	Pending bool   `json:"pending,omitempty"`
	Detail  string `json:"detail"`
	Fix     string `json:"fix,omitempty"`
	Netns   string `json:"netns,omitempty"`
}

// run returns ErrIncomplete if neither method works in one of the namespaces.
func (p *probe) run(ctx context.Context) error {
	in, err := p.netns.find()
	if err != nil {
		return err
	}
	tester, works := actuator.New(actuator.Config{}), true
	checks := []checkJSON{}
	err = in.each(ctx, func(ns hangup.Namespace) error {
		if err := ns.Enter(func() error { return nil }); err != nil {
			return err
		}
		usable := false
		for _, c := range tester.Probe(ctx, ns) {
			usable = usable || c.Usable && (c.Name == string(hangup.Shutdown) || c.Name == string(hangup.Destroy))
			checks = append(checks, checkJSON{Name: c.Name, Usable: c.Usable, Pending: c.Pending, Detail: c.Detail, Fix: c.Fix, Netns: ns.Name})
		}
		works = works && usable
		return nil
	})
	if err != nil {
		return err
	}
	if p.output == "json" {
		err = printJSON(p.stdout, checks)
	} else {
		err = writeChecks(p.stdout, checks)
	}
	if err != nil {
		return fmt.Errorf("write checks: %w", err)
	}
	if note := in.note(); note != "" {
		fmt.Fprintln(p.stderr, "tcphup: "+strings.TrimPrefix(note, "; "))
	}
	if !works || in.incomplete() {
		return ErrIncomplete
	}
	return nil
}

func writeChecks(w io.Writer, checks []checkJSON) error {
	t := new(table)
	var netns []string
	for _, c := range checks {
		usable := "no"
		if c.Usable {
			usable = "yes"
		}
		t.add(cell{text: c.Name}, cell{text: usable}, cell{text: text.Printable(c.Detail)})
		netns = append(netns, c.Netns)
		if c.Fix != "" {
			t.add(cell{}, cell{}, cell{text: "-> " + text.Printable(c.Fix)})
			netns = append(netns, c.Netns)
		}
	}
	return t.addNetns(netns).write(w, false)
}
