package command

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"unicode/utf8"

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
		err = checkTable(checks, terminalWidth(p.stdout)).write(p.stdout, false)
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

// checkTable returns the table of the checks. Details that exceed the width of the terminal
// continue on the next line; width 0 does not limit their length.
func checkTable(checks []checkJSON, width int) *table {
	t := new(table)
	left := math.MaxInt
	if width > 0 {
		left = max(width-detailIndent(checks), minDetail)
	}
	var netns []string
	add := func(c *checkJSON, name, usable, detail string) {
		for i, line := range wrapWords(text.Printable(detail), left) {
			if i > 0 {
				name, usable = "", ""
			}
			t.add(cell{text: name}, cell{text: usable}, cell{text: line})
			netns = append(netns, c.Netns)
		}
	}
	for i := range checks {
		c := &checks[i]
		usable := "no"
		if c.Usable {
			usable = "yes"
		}
		add(c, c.Name, usable, c.Detail)
		if c.Fix != "" {
			add(c, "", "", "-> "+c.Fix)
		}
	}
	return t.addNetns(netns)
}

// minDetail is the least width of a detail, for narrow terminals.
const minDetail = 30

// detailIndent returns the width of the columns to the left of a detail.
func detailIndent(checks []checkJSON) int {
	name, netns := 0, 0
	for _, c := range checks {
		name = max(name, utf8.RuneCountInString(c.Name))
		netns = max(netns, utf8.RuneCountInString(c.Netns))
	}
	if netns > 0 {
		netns += len(gap)
	}
	return netns + name + len(gap) + len("yes") + len(gap)
}
