package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	webflag "github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"tcphup/server"
)

// serve implements tcphup serve.
type serve struct {
	log     promslog.Config
	options server.Options
}

func newServe(cmd *kingpin.CmdClause) *serve {
	s := &serve{log: promslog.Config{Level: promslog.NewLevel(), Format: promslog.NewFormat()}}
	o := &s.options
	cmd.Flag("config.file", "Configuration file with policies, services and never rules; default: the embedded policy labelled.").StringVar(&o.ConfigFile)
	o.Web = webflag.AddFlags(cmd, ":10471")
	cmd.Flag("alerts.listen-address", "Address of the alert receiver; empty disables it.").
		Default("127.0.0.1:10472").StringVar(&o.AlertsAddress)
	cmd.Flag("alerts.web-config-file", "Like --web.config.file, for the alert receiver: TLS, client certificates or basic auth.").StringVar(&o.AlertsWebConfig)
	cmd.Flag("alerts.token-file", "File with accepted bearer tokens of alert senders, one per line, not accessible to other users than its owner and group.").StringVar(&o.Alerts.TokenFile)
	cmd.Flag("alerts.pause-file", "While this file exists, alerts close no connection.").StringVar(&o.Alerts.PauseFile)
	cmd.Flag("alerts.shadow", "Shadow all policies: process alerts and run every safety check, but close nothing, like hangup --dry-run.").BoolVar(&o.Alerts.Shadow)
	cmd.Flag("audit.log-file", "Append every decision to this file, one JSON object per line.").StringVar(&o.AuditFile)
	cmd.Flag("watch-reconnect", "How long to watch for reconnects of applications after a hang-up; 0 disables the watch.").Default("5s").SetValue(duration{&o.Alerts.WatchReconnect, 0})
	cmd.Flag("collector.max-destinations", "Maximum number of destinations with their own series; the rest is aggregated as other.").
		Default("500").SetValue(wholeNumber{&o.Collector.MaxDestinations, 1, 1_000_000})
	setSubset(cmd.Flag("collector.histograms", "Histograms of each destination, separated by commas: idle, age, peer_silence, subflow_idle; empty exports none.").Default("idle"),
		&o.Collector.Histograms, server.Histograms())
	cmd.Flag("collector.prefix-length-v4", "Aggregate IPv4 destinations by prefixes of this length.").Default("32").SetValue(wholeNumber{&o.Collector.PrefixLengthV4, 1, 32})
	cmd.Flag("collector.prefix-length-v6", "Aggregate IPv6 destinations by prefixes of this length.").Default("128").SetValue(wholeNumber{&o.Collector.PrefixLengthV6, 1, 128})
	cmd.Flag("collector.include", "Export only these destinations (address or prefix, repeatable).").SetValue((*prefixes)(&o.Collector.Include))
	cmd.Flag("collector.exclude", "Do not export these destinations (address or prefix, repeatable).").SetValue((*prefixes)(&o.Collector.Exclude))
	cmd.Flag("service", "Watch current and former addresses of a DNS name, and connections to its port (NAME:PORT, repeatable); same as services in the configuration file.").
		SetValue((*serviceFlags)(&o.Services))
	cmd.Flag("state.directory", "Directory for state that survives a restart: the addresses of watched names and the ages of connections. Default: the first entry of $STATE_DIRECTORY, set by systemd; without either, no state is kept.").
		StringVar(&o.StateDirectory)
	cmd.Flag("log.level", "Only log messages with the given severity or above: debug, info, warn, error.").Default("info").SetValue(s.log.Level)
	cmd.Flag("log.format", "Output format of log messages: logfmt or json.").Default("logfmt").SetValue(s.log.Format)
	return s
}

func (s *serve) run(ctx context.Context) error {
	// A write to stderr without a reader is an error then, and does not end the process.
	signal.Ignore(syscall.SIGPIPE)
	var logger *slog.Logger
	queue := server.NewLineQueue(os.Stderr, nil, func(dropped uint64) { logger.Warn("log is written again", "dropped_lines", dropped) })
	defer queue.Close()
	s.log.Writer = queue
	logger = promslog.New(&s.log)
	s.options.Logger, s.options.LogQueue = logger, queue
	err := server.Run(ctx, s.options)
	var mistake *server.OptionsError
	switch {
	case errors.As(err, &mistake):
		return inputError{err}
	case err != nil:
		fmt.Fprintf(queue, "tcphup: %v\n", err)
		return ErrIncomplete
	default:
		return nil
	}
}
