package command

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/config"
)

// checkConfig implements tcphup check-config.
type checkConfig struct {
	file           string
	stdout, stderr io.Writer
}

func newCheckConfig(cmd *kingpin.CmdClause) *checkConfig {
	c := &checkConfig{stdout: os.Stdout, stderr: os.Stderr}
	cmd.Arg("FILE", "Configuration file.").Required().StringVar(&c.file)
	return c
}

func (c *checkConfig) run(context.Context) error {
	loaded, err := config.Load(c.file)
	if err != nil {
		return err
	}
	for _, warning := range loaded.Warnings {
		if _, err := fmt.Fprintf(c.stderr, "warning: %s\n", warning); err != nil {
			return err
		}
	}
	valid := "valid"
	if loaded.ForNode() {
		valid = "valid with serve --node only"
	}
	_, err = fmt.Fprintf(c.stdout, "%s: %s; policies: %d, services: %d, never rules: %d\n",
		c.file, valid, len(loaded.Rules.Policies), len(loaded.Services), len(loaded.Rules.Never))
	return err
}
