// Package command implements the command line: each subcommand parses flags into options,
// calls the package that does the work, and prints the result.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"text/template"

	"github.com/alecthomas/kingpin/v2"
)

var (
	// ErrUsage matches errors about the command line or about a file named by it. The
	// command did not change anything.
	ErrUsage = errors.New("usage")
	// ErrIncomplete matches results, already printed, with a connection that failed,
	// lingers, was refused or left undecided (--stale), or without a usable method.
	ErrIncomplete = errors.New("incomplete")
)

// inputError is an error about the value of an argument or a flag. It matches
// ErrUsage, without its text.
type inputError struct{ err error }

func (e inputError) Error() string        { return e.err.Error() }
func (e inputError) Unwrap() error        { return e.err }
func (e inputError) Is(target error) bool { return target == ErrUsage }

// Run runs the subcommand named in args until it is done or ctx ends. --help and
// --version print and exit the process.
func Run(ctx context.Context, args []string) error {
	app, commands := newApp(args)
	// Sets no value and runs no action.
	parsed, parseErr := app.ParseContext(args)
	line := commandLine{app, parsed, args}
	if parseErr == nil && line.given("help-man") {
		return writeManPage(os.Stdout, app.Model())
	}
	name, err := line.parse(parseErr)
	if err != nil {
		return err
	}
	return commands[name].run(ctx)
}

// subcommand is a subcommand with parsed flags.
type subcommand interface {
	run(ctx context.Context) error
}

// newApp returns the command line and its subcommands by name. It uses args for
// completion only.
func newApp(args []string) (*kingpin.Application, map[string]subcommand) {
	app := kingpin.New("tcphup", "Gracefully closes stale TCP and MPTCP connections, from the command line or when Alertmanager fires.")
	// The lines of a file would become arguments: tcphup @FILE.
	kingpin.EnableFileExpansion = false
	app.UsageWriter(os.Stdout)
	app.UsageTemplate(helpTemplate).UsageFuncs(template.FuncMap{"Help": formatHelp, "CommandHelp": formatCommandHelp})
	app.HelpFlag.Help("Print help. With a command: help for it.").Short('h')
	// kingpin's own --version would print all lines of the version into the title of the
	// man page.
	app.Flag("version", "Print version and build information.").PreAction(func(*kingpin.ParseContext) error {
		if err := printVersion(os.Stdout); err != nil {
			return err
		}
		os.Exit(0)
		return nil
	}).Bool()
	hangup := app.Command("hangup", "Hang up connections to a destination (the default command).")
	if !completesCommand(args) {
		hangup.Default()
	}
	return app, map[string]subcommand{
		"hangup":       newHangup(hangup),
		"list":         newList(app.Command("list", "List destinations or connections, longest idle first.")),
		"serve":        newServe(app.Command("serve", "Run the Prometheus exporter and the alert receiver.")),
		"check-config": newCheckConfig(app.Command("check-config", "Validate a configuration file.")),
		"probe":        newProbe(app.Command("probe", "Test which methods work on this host, and list missing capabilities and kernel features.")),
		"healthcheck":  newHealthcheck(app.Command("healthcheck", "Check the health of a running tcphup serve, for container health checks.")),
		"version":      newVersion(app.Command("version", "Print version and build information.")),
	}
}

// completesCommand reports whether args request the completion of the first word. With a
// default command kingpin completes arguments of that command instead.
func completesCommand(args []string) bool {
	return len(args) > 0 && args[0] == "--completion-bash" && (len(args) == 1 || len(args) == 2 && !strings.HasPrefix(args[1], "-"))
}

// printJSON writes v to w as indented JSON.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
