package command

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
)

// versionCommand implements tcphup version.
type versionCommand struct{ stdout io.Writer }

func newVersion(*kingpin.CmdClause) versionCommand { return versionCommand{os.Stdout} }

func (v versionCommand) run(context.Context) error { return printVersion(v.stdout) }

func printVersion(w io.Writer) error {
	_, err := fmt.Fprintln(w, version.Print("tcphup"))
	return err
}
