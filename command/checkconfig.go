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
	file   string
	stdout io.Writer
}

func newCheckConfig(cmd *kingpin.CmdClause) *checkConfig {
	c := &checkConfig{stdout: os.Stdout}
	cmd.Arg("FILE", "Configuration file.").Required().StringVar(&c.file)
	return c
}

func (c *checkConfig) run(context.Context) error {
	loaded, err := config.Load(c.file)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "%s: %d policies, %d services, %d never rules\n",
		c.file, len(loaded.Rules.Policies), len(loaded.Services), len(loaded.Rules.Never))
	return err
}
