package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
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
	// nodeFlags reports which flags of node mode the command line has.
	nodeFlags map[string]*bool
}

func newServe(cmd *kingpin.CmdClause) *serve {
	s := &serve{log: promslog.Config{Level: promslog.NewLevel(), Format: promslog.NewFormat()}, nodeFlags: make(map[string]*bool)}
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
	cmd.Flag("collector.max-destinations", "Maximum number of destinations with their own series, with --node of all pods together; the rest is aggregated as other. Default: 500, or 2000 with --node.").
		SetValue(wholeNumber{&o.Collector.MaxDestinations, 1, 1_000_000})
	s.nodeFlag(cmd, "collector.max-destinations-per-pod", "Maximum number of destinations of each pod with their own series; the rest is aggregated as other of the pod.").
		Default("20").SetValue(wholeNumber{&o.Node.MaxDestinationsPerPod, 1, 1_000_000})
	setSubset(cmd.Flag("collector.histograms", "Histograms of each destination, separated by commas: idle, age, peer_silence, subflow_idle; empty exports none.").Default("idle"),
		&o.Collector.Histograms, server.Histograms())
	cmd.Flag("collector.prefix-length-v4", "Aggregate IPv4 destinations by prefixes of this length.").Default("32").SetValue(wholeNumber{&o.Collector.PrefixLengthV4, 1, 32})
	cmd.Flag("collector.prefix-length-v6", "Aggregate IPv6 destinations by prefixes of this length.").Default("128").SetValue(wholeNumber{&o.Collector.PrefixLengthV6, 1, 128})
	cmd.Flag("collector.include", "Export only these destinations (address or prefix, repeatable).").SetValue((*prefixes)(&o.Collector.Include))
	cmd.Flag("collector.exclude", "Do not export these destinations (address or prefix, repeatable).").SetValue((*prefixes)(&o.Collector.Exclude))
	cmd.Flag("node", "Node mode: read and act in the network namespaces of the pods of this Kubernetes node, instead of the own one. Needs the pid namespace of the node (hostPID: true), CAP_SYS_ADMIN and CAP_SYS_PTRACE.").
		BoolVar(&o.Node.Enabled)
	s.nodeFlag(cmd, "node.pod-logs", "Directory with the names of the pods: NAMESPACE_POD_UID.").
		Default(server.DefaultPodLogs).StringVar(&o.Node.PodLogs)
	s.nodeFlag(cmd, "node.cpu-budget", "Processor time that a scrape may take for reading pods; 0 means no limit. Skipped pods have no series in that scrape, and are the first ones in the next.").
		Default("1s").SetValue(duration{&o.Node.CPUBudget, 0})
	cmd.Flag("service", "Watch current and former addresses of a DNS name, and connections to its port (NAME:PORT, repeatable); same as services in the configuration file.").
		SetValue((*serviceFlags)(&o.Services))
	cmd.Flag("state.directory", "Directory for state that survives a restart, created if it is missing: the addresses of watched names and the ages of connections. Default: the first entry of $STATE_DIRECTORY, set by systemd; without either, no state is kept.").
		StringVar(&o.StateDirectory)
	cmd.Flag("log.level", "Only log messages with the given severity or above: debug, info, warn, error.").Default("info").SetValue(s.log.Level)
	cmd.Flag("log.format", "Output format of log messages: logfmt or json.").Default("logfmt").SetValue(s.log.Format)
	return s
}

// nodeFlag adds a flag that needs --node.
func (s *serve) nodeFlag(cmd *kingpin.CmdClause, name, help string) *kingpin.FlagClause {
	s.nodeFlags[name] = new(bool)
	return cmd.Flag(name, help).IsSetByUser(s.nodeFlags[name])
}

// checkNode returns an error for the flags of node mode without --node.
func (s *serve) checkNode() error {
	for _, name := range slices.Sorted(maps.Keys(s.nodeFlags)) {
		if *s.nodeFlags[name] && !s.options.Node.Enabled {
			return inputError{fmt.Errorf("--%s needs --node", name)}
		}
	}
	return nil
}

func (s *serve) run(ctx context.Context) error {
	if err := s.checkNode(); err != nil {
		return err
	}
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
