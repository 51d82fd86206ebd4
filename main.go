// Command tcphup hangs up stale TCP connections in order, so that applications
// reconnect to where a service is now, and tells Prometheus which ones are stale.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
)

// Exit codes.
const (
	exitDone       = 0 // done, also when nothing matched
	exitIncomplete = 1 // some flow failed, lingers or was refused
	exitUsage      = 2 // nothing was touched
)

// errUsage marks what the user can mend in the command line.
var errUsage = errors.New("usage")

// command is a subcommand: its flags are in place, run does the work.
type command interface {
	run(ctx context.Context) (exit int, err error)
}

func main() {
	os.Exit(run(os.Args[1:]))
}

// newApp returns the command line and its commands by name. What the arguments are
// counts for completion alone.
func newApp(args []string) (*kingpin.Application, map[string]command) {
	app := kingpin.New("tcphup", "Hangs up stale TCP and Multipath TCP connections in order, by hand or because an alert asks for it.")
	app.UsageWriter(os.Stdout)
	app.HelpFlag.Short('h')
	// Not kingpin's own: it would put every line of this into the title of the man page.
	showVersion := app.Flag("version", "Show what was built, from what and with what.").PreAction(func(*kingpin.ParseContext) error {
		fmt.Println(version.Print("tcphup"))
		os.Exit(exitDone)
		return nil
	})
	showVersion.Bool()
	hangup := app.Command("hangup", "Hang up the flows to a destination (the default command).")
	if !completesCommand(args) {
		hangup.Default()
	}
	return app, map[string]command{
		"hangup":       newHangup(hangup),
		"list":         newList(app.Command("list", "List destinations, or flows, the oldest idle ones first.")),
		"serve":        newServe(app.Command("serve", "Export metrics and receive alerts.")),
		"check-config": newCheckConfig(app.Command("check-config", "Check a configuration file.")),
		"probe":        newProbe(app.Command("probe", "Try out what can be done here and say what is missing.")),
		"healthcheck":  newHealthcheck(app.Command("healthcheck", "Ask a running tcphup serve whether it is well, as a container's health check does.")),
	}
}

func run(args []string) int {
	app, commands := newApp(args)
	name, err := app.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "tcphup: %v; see tcphup --help\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit, err := commands[name].run(ctx)
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "tcphup: %v\n", err)
		return exitUsage
	case err != nil:
		fmt.Fprintf(os.Stderr, "tcphup: %v\n", err)
		return exitIncomplete
	default:
		return exit
	}
}

// completesCommand reports whether a shell asks what the first word could be. With
// a default command kingpin would take that word for one of its arguments.
func completesCommand(args []string) bool {
	return len(args) > 0 && args[0] == "--completion-bash" && (len(args) == 1 || len(args) == 2 && !strings.HasPrefix(args[1], "-"))
}
