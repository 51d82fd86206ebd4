// Package command is the command line of tcphup: each subcommand turns its flags into
// options, calls the package that does the work, and prints the result.
package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
)

var (
	// ErrUsage matches errors about the command line, or about a file that it names.
	// Nothing was touched.
	ErrUsage = errors.New("usage")
	// ErrIncomplete matches results, already printed, with a connection that failed,
	// lingers or was refused, or without a usable method.
	ErrIncomplete = errors.New("incomplete")
)

// parseError is an error of kingpin. It matches ErrUsage.
type parseError struct{ err error }

func (e parseError) Error() string        { return e.err.Error() + "; see tcphup --help" }
func (e parseError) Unwrap() error        { return e.err }
func (e parseError) Is(target error) bool { return target == ErrUsage }

// Run runs the subcommand that the arguments name, until it is done or ctx ends. Help
// and version are printed and end the process.
func Run(ctx context.Context, args []string) error {
	app, commands := newApp(args)
	name, err := app.Parse(args)
	if err != nil {
		return parseError{err}
	}
	return commands[name].run(ctx)
}

// subcommand is a subcommand whose flags are parsed.
type subcommand interface {
	run(ctx context.Context) error
}

// newApp returns the command line and its subcommands by name. The arguments matter
// for completion only.
func newApp(args []string) (*kingpin.Application, map[string]subcommand) {
	app := kingpin.New("tcphup", "Hangs up stale TCP and Multipath TCP connections in order, by hand or because an alert asks for it.")
	app.UsageWriter(os.Stdout)
	app.HelpFlag.Short('h')
	// Not kingpin's own: it would put every line of this into the title of the man page.
	showVersion := app.Flag("version", "Show what was built, from what and with what.").PreAction(func(*kingpin.ParseContext) error {
		fmt.Println(version.Print("tcphup"))
		os.Exit(0)
		return nil
	})
	showVersion.Bool()
	hangup := app.Command("hangup", "Hang up the flows to a destination (the default command).")
	if !completesCommand(args) {
		hangup.Default()
	}
	return app, map[string]subcommand{
		"hangup":       newHangup(hangup),
		"list":         newList(app.Command("list", "List destinations, or flows, the oldest idle ones first.")),
		"serve":        newServe(app.Command("serve", "Export metrics and receive alerts.")),
		"check-config": newCheckConfig(app.Command("check-config", "Check a configuration file.")),
		"probe":        newProbe(app.Command("probe", "Try out what can be done here and say what is missing.")),
		"healthcheck":  newHealthcheck(app.Command("healthcheck", "Ask a running tcphup serve whether it is well, as a container's health check does.")),
	}
}

// completesCommand reports whether a shell completes the first word. With a default
// command kingpin would take that word for one of its arguments.
func completesCommand(args []string) bool {
	return len(args) > 0 && args[0] == "--completion-bash" && (len(args) == 1 || len(args) == 2 && !strings.HasPrefix(args[1], "-"))
}
