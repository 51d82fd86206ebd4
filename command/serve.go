package command

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	webflag "github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"tcphup/internal/address"
	"tcphup/server"
	"tcphup/services"
)

// serve is the command of the same name.
type serve struct {
	log     promslog.Config
	options server.Options
}

func newServe(cmd *kingpin.CmdClause) *serve {
	s := &serve{log: promslog.Config{Level: promslog.NewLevel(), Format: promslog.NewFormat()}}
	o := &s.options
	cmd.Flag("config.file", "Policies of the alert receiver; without it the policy labelled applies.").StringVar(&o.ConfigFile)
	o.Web = webflag.AddFlags(cmd, ":10471")
	cmd.Flag("alerts.listen-address", "Address on which to receive alerts; empty means not to.").
		Default("127.0.0.1:10472").StringVar(&o.AlertsAddress)
	cmd.Flag("alerts.web-config-file", "As --web.config.file, for the alert receiver: client certificates or basic auth.").StringVar(&o.AlertsWebConfig)
	cmd.Flag("alerts.token-file", "File with the bearer tokens that senders of alerts must show, one a line, readable by its owner alone.").StringVar(&o.Alerts.TokenFile)
	cmd.Flag("alerts.pause-file", "While this file exists, alerts hang up nothing.").StringVar(&o.Alerts.PauseFile)
	cmd.Flag("alerts.shadow", "Plan and report what alerts ask for, but close nothing.").BoolVar(&o.Alerts.Shadow)
	cmd.Flag("audit.log-file", "File to which every decision is appended, one JSON object a line.").StringVar(&o.AuditFile)
	cmd.Flag("watch-reconnect", "How long to watch where applications go after a hang-up; 0 means not to.").Default("5s").DurationVar(&o.Alerts.WatchReconnect)
	cmd.Flag("collector.max-destinations", "At most so many destinations have series of their own; the rest is counted as other.").
		Default("500").SetValue(wholeNumber{&o.Collector.MaxDestinations, 1, 1_000_000})
	cmd.Flag("collector.prefix-length-v4", "Widen IPv4 destinations to prefixes of this length.").Default("32").SetValue(wholeNumber{&o.Collector.PrefixLengthV4, 1, 32})
	cmd.Flag("collector.prefix-length-v6", "Widen IPv6 destinations to prefixes of this length.").Default("128").SetValue(wholeNumber{&o.Collector.PrefixLengthV6, 1, 128})
	cmd.Flag("collector.include", "Show these destinations only (address or prefix, repeatable).").SetValue((*prefixes)(&o.Collector.Include))
	cmd.Flag("collector.exclude", "Do not show these destinations (address or prefix, repeatable).").SetValue((*prefixes)(&o.Collector.Exclude))
	cmd.Flag("service", "Watch which addresses this name has and had, and the flows to its port (NAME:PORT, repeatable); as services of the configuration file.").
		SetValue((*serviceFlags)(&o.Services))
	cmd.Flag("state.directory", "Directory for state that survives a restart: the addresses of watched names. Default: the first entry of $STATE_DIRECTORY, which systemd sets; without it no state is kept.").
		StringVar(&o.StateDirectory)
	cmd.Flag("log.level", "Only log messages with the given severity or above: debug, info, warn, error.").Default("info").SetValue(s.log.Level)
	cmd.Flag("log.format", "Output format of log messages: logfmt or json.").Default("logfmt").SetValue(s.log.Format)
	return s
}

func (s *serve) run(ctx context.Context) error {
	s.options.Logger = promslog.New(&s.log)
	err := server.Run(ctx, s.options)
	var mistake *server.OptionsError
	if errors.As(err, &mistake) {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return err
}

// prefixes is a repeatable flag.
type prefixes []netip.Prefix

func (p *prefixes) String() string     { return fmt.Sprint([]netip.Prefix(*p)) }
func (p *prefixes) IsCumulative() bool { return true }
func (p *prefixes) Set(text string) error {
	prefix, err := address.Parse(text)
	*p = append(*p, prefix)
	return err
}

// serviceFlags is the repeatable flag --service.
type serviceFlags []services.Service

func (s *serviceFlags) String() string     { return fmt.Sprint([]services.Service(*s)) }
func (s *serviceFlags) IsCumulative() bool { return true }
func (s *serviceFlags) Set(text string) error {
	name, port, err := address.ParseService(text)
	if err == nil && port == 0 {
		err = fmt.Errorf("%q has no port: write NAME:PORT", text)
	}
	*s = append(*s, services.Service{Name: name, Port: port, Settle: services.DefaultSettle, Interval: services.DefaultInterval})
	return err
}
