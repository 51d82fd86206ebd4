package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	webflag "github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/collector"
	"tcphup/internal/safefile"
	"tcphup/services"
)

// stopTimeout is how long the servers get to end what is under way.
const stopTimeout = 20 * time.Second

// serve is the command of the same name.
type serve struct {
	log        promslog.Config
	configFile string
	web        *web.FlagConfig

	alertsAddress, alertsWebConfig string
	auditFile                      string
	watchReconnect                 time.Duration
	alerts                         alerts.Config
	collector                      collector.Config
	services                       serviceFlags
	watching                       services.Config
}

func newServe(cmd *kingpin.CmdClause) *serve {
	s := &serve{log: promslog.Config{Level: promslog.NewLevel(), Format: promslog.NewFormat()}}
	cmd.Flag("config.file", "Policies of the alert receiver; without it the policy labelled applies.").StringVar(&s.configFile)
	s.web = webflag.AddFlags(cmd, ":10471")
	cmd.Flag("alerts.listen-address", "Address on which to receive alerts; empty means not to.").
		Default("127.0.0.1:10472").StringVar(&s.alertsAddress)
	cmd.Flag("alerts.web-config-file", "As --web.config.file, for the alert receiver: client certificates or basic auth.").StringVar(&s.alertsWebConfig)
	cmd.Flag("alerts.token-file", "File with the bearer tokens that senders of alerts must show, one a line, readable by its owner alone.").StringVar(&s.alerts.TokenFile)
	cmd.Flag("alerts.pause-file", "While this file exists, alerts hang up nothing.").StringVar(&s.alerts.PauseFile)
	cmd.Flag("alerts.shadow", "Plan and report what alerts ask for, but close nothing.").BoolVar(&s.alerts.Shadow)
	cmd.Flag("audit.log-file", "File to which every decision is appended, one JSON object a line.").StringVar(&s.auditFile)
	cmd.Flag("watch-reconnect", "How long to watch where applications go after a hang-up; 0 means not to.").Default("5s").DurationVar(&s.watchReconnect)
	cmd.Flag("collector.max-destinations", "At most so many destinations have series of their own; the rest is counted as other.").
		Default("500").SetValue(wholeNumber{&s.collector.MaxDestinations, 1, 1_000_000})
	cmd.Flag("collector.prefix-length-v4", "Widen IPv4 destinations to prefixes of this length.").Default("32").SetValue(wholeNumber{&s.collector.PrefixLengthV4, 1, 32})
	cmd.Flag("collector.prefix-length-v6", "Widen IPv6 destinations to prefixes of this length.").Default("128").SetValue(wholeNumber{&s.collector.PrefixLengthV6, 1, 128})
	cmd.Flag("collector.include", "Show these destinations only (address or prefix, repeatable).").SetValue((*prefixes)(&s.collector.Include))
	cmd.Flag("collector.exclude", "Do not show these destinations (address or prefix, repeatable).").SetValue((*prefixes)(&s.collector.Exclude))
	cmd.Flag("service", "Watch which addresses this name has and had, and the flows to its port (NAME:PORT, repeatable); as services of the configuration file.").
		SetValue(&s.services)
	cmd.Flag("state.directory", "Directory for what is kept over a restart: the addresses of watched names. Default: the first entry of $STATE_DIRECTORY, which systemd sets; without it nothing is kept.").
		StringVar(&s.watching.StateDirectory)
	cmd.Flag("log.level", "Only log messages with the given severity or above: debug, info, warn, error.").Default("info").SetValue(s.log.Level)
	cmd.Flag("log.format", "Output format of log messages: logfmt or json.").Default("logfmt").SetValue(s.log.Format)
	return s
}

// prefixes is a repeatable flag.
type prefixes []netip.Prefix

func (p *prefixes) String() string     { return fmt.Sprint([]netip.Prefix(*p)) }
func (p *prefixes) IsCumulative() bool { return true }
func (p *prefixes) Set(text string) error {
	prefix, err := parsePrefix(text)
	*p = append(*p, prefix)
	return err
}

// server is everything that serve has running.
type server struct {
	*serve
	logger    *slog.Logger
	registry  *prometheus.Registry
	collector *collector.Collector
	actuator  *actuator.Actuator
	watcher   *services.Watcher
	receiver  *alerts.Receiver
	audit     *alerts.Audit
	reloads   reloadMetrics
	started   time.Time
	checks    []actuator.Check // what the self-test found at the start

	alertsFlags                      *web.FlagConfig
	metricsListeners, alertListeners []net.Listener
}

func (s *serve) run(ctx context.Context) (int, error) {
	if os.Getenv("GOGC") == "" {
		// There may be ten thousand side-cars: a few megabytes of each are worth more than
		// the milliseconds a minute that collecting four times as often takes.
		debug.SetGCPercent(25)
	}
	x := &server{serve: s, logger: promslog.New(&s.log), registry: prometheus.NewRegistry(), started: time.Now()}
	if err := hideMemory(); err != nil {
		return exitIncomplete, err
	}
	if err := s.checkCredentials(); err != nil {
		return exitUsage, fmt.Errorf("%w: %w", errUsage, err)
	}
	closeAudit, err := x.openAudit()
	if err != nil {
		return exitUsage, fmt.Errorf("%w: %w", errUsage, err)
	}
	defer closeAudit()
	if slices.Contains(*s.web.WebListenAddresses, "") {
		return exitUsage, fmt.Errorf("%w: --web.listen-address is empty: write ADDRESS:PORT, or :PORT for every address", errUsage)
	}
	if err := x.listen(); err != nil {
		return exitIncomplete, err
	}
	// What is read again while it runs is read from here on: a file that can be read
	// no more is found now and not at a reload.
	kept, err := dropPrivileges(s.alertsAddress != "", s.configFile != "" || *s.web.WebConfigFile != "")
	if err != nil {
		return exitIncomplete, err
	}
	config, err := x.load()
	if err == nil {
		err = s.checkWebFile()
	}
	if err == nil {
		err = x.build(config)
	}
	if err != nil {
		return exitUsage, fmt.Errorf("%w: %w", errUsage, err)
	}
	defer x.actuator.Close()
	x.logger.Info("starting tcphup", "version", version.Info(), "mode", x.mode(), "capabilities", capabilityNames(kept))
	if x.mode() == "shadow" && !x.alerts.HasCredentials() {
		x.logger.Warn("alerts hang up nothing: senders need no credentials; add --alerts.token-file or --alerts.web-config-file")
	}
	if x.receiver.Paused() {
		x.logger.Warn("alerts hang up nothing: paused", "file", x.alerts.PauseFile)
	}
	x.probe(ctx)
	if err := x.serveUntilDone(ctx); err != nil {
		return exitIncomplete, err
	}
	x.logger.Info("stopped")
	return exitDone, nil
}

// build makes the parts and lets them meet.
func (x *server) build(c config) error {
	var err error
	x.watching.Logger, x.watching.Services = x.logger, c.watched()
	x.watching.StateDirectory = stateDirectory(x.watching.StateDirectory)
	if x.watcher, err = services.New(x.watching); err != nil {
		return err
	}
	x.serve.collector.Logger = x.logger
	x.serve.collector.Observer = x.watcher.Sockets()
	x.serve.collector.Pinned = func(addresses netip.Prefix, port uint16) bool {
		return x.watcher.Pinned(addresses, port) || x.receiver.Allows(addresses, port)
	}
	if x.collector, err = collector.New(x.serve.collector); err != nil {
		return err
	}
	x.actuator = actuator.New(actuator.Config{Logger: x.logger, FirstSeen: x.collector.FirstSeen})
	x.alerts.Audit, x.alerts.Names = x.audit, x.watcher
	// Where no alert can arrive, no policy is in force.
	x.alerts.Shadow = x.alerts.Shadow || x.alertsAddress == ""
	x.receiver, err = alerts.NewReceiver(x.alerts, c.Rules, hangUpper{x.actuator, x.watchReconnect}, x.logger)
	if err != nil {
		return err
	}
	x.addPolicies(c)
	x.reloads = newReloadMetrics()
	for _, c := range []prometheus.Collector{
		versioncollector.NewCollector("tcphup"),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		x.actuator, x.watcher, x.receiver, x.reloads.successful, x.reloads.time,
	} {
		if err := x.registry.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	x.reloads.set(true)
	return nil
}

// stateDirectory returns the directory for what is kept over a restart: the flag's, or
// systemd's first one (STATE_DIRECTORY in systemd.exec(5)); empty if there is neither.
func stateDirectory(flag string) string {
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return cmp.Or(flag, first)
}

// checkCredentials refuses to receive alerts from everyone.
func (s *serve) checkCredentials() error {
	if s.alertsAddress == "" {
		return nil
	}
	if s.alertsWebConfig != "" {
		check := func() error { return checkWebConfig(s.alertsWebConfig) }
		switch err := check(); {
		case err == nil:
			s.alerts.ListenerAuthenticates, s.alerts.CheckListener = true, check
		case !errors.Is(err, errNoWebCredentials):
			return err
		}
	}
	if s.alerts.HasCredentials() {
		return nil
	}
	host, _, err := net.SplitHostPort(s.alertsAddress)
	if err != nil {
		return fmt.Errorf("--alerts.listen-address=%s: write ADDRESS:PORT: %w", s.alertsAddress, err)
	}
	if a, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !a.IsLoopback()) {
		return fmt.Errorf("--alerts.listen-address=%s can be reached by others and asks for no credentials: add --alerts.token-file or --alerts.web-config-file, or listen on 127.0.0.1", s.alertsAddress)
	}
	return nil
}

// checkWebFile refuses a web configuration of the metrics that others may change.
func (s *serve) checkWebFile() error {
	if *s.web.WebConfigFile == "" {
		return nil
	}
	_, err := readWebConfig(*s.web.WebConfigFile)
	return err
}

// mode says in a word what an alert can bring about.
func (x *server) mode() string {
	switch {
	case x.alertsAddress == "":
		return "exporter"
	case x.alerts.Shadow || !x.alerts.HasCredentials():
		return "shadow"
	default:
		return "armed"
	}
}

// probe tries out what can be done here. What cannot is told and exported, and
// stops nothing. An exporter misses no method to hang up.
func (x *server) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	x.checks = x.actuator.Probe(ctx)
	for _, c := range x.checks {
		level := slog.LevelDebug
		if !c.Usable && x.alertsAddress != "" {
			level = slog.LevelWarn
		}
		x.logger.LogAttrs(ctx, level, "self-test", slog.String("check", c.Name), slog.Bool("usable", c.Usable),
			slog.String("detail", c.Detail), slog.String("fix", c.Fix))
	}
}

// openAudit makes the audit and returns how to close its file.
func (x *server) openAudit() (func(), error) {
	if x.auditFile == "" {
		x.audit = alerts.NewAudit(nil)
		return func() {}, nil
	}
	file, err := os.OpenFile(x.auditFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = safefile.Check(file)
	}
	if err != nil {
		return nil, fmt.Errorf("open --audit.log-file: %w", err)
	}
	x.audit = alerts.NewAudit(file)
	if isTorn(file) {
		x.audit.EndLine()
	}
	return func() {
		x.audit.SetWriter(nil)
		if err := file.Close(); err != nil {
			x.logger.Error("cannot close audit log", "err", err)
		}
	}, nil
}

// listen opens the listeners of both servers.
func (x *server) listen() error {
	var err error
	if x.metricsListeners, err = listen(x.web); err != nil || x.alertsAddress == "" {
		return err
	}
	noSocket := false
	x.alertsFlags = &web.FlagConfig{WebListenAddresses: &[]string{x.alertsAddress}, WebSystemdSocket: &noSocket, WebConfigFile: &x.alertsWebConfig}
	x.alertListeners, err = listen(x.alertsFlags)
	return err
}

// isTorn reports whether the last line of a file is cut off: an earlier run was killed,
// or had no room left, in the middle of it. What cannot be read counts as whole.
func isTorn(file *os.File) bool {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	reader, err := os.Open(file.Name())
	if err != nil {
		return false
	}
	defer reader.Close()
	var last [1]byte
	_, err = reader.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}

// serveUntilDone runs both servers until ctx ends, then lets what is under way finish.
func (x *server) serveUntilDone(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { x.watcher.Run(ctx) })

	metrics := &http.Server{Handler: x.webHandler(), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	limitConnections(metrics, maxConnections)
	servers := []*http.Server{metrics}
	go func() { stop(serveOn(x.metricsListeners, metrics, x.web, x.logger)) }()
	if x.alertsAddress != "" {
		receiver := &http.Server{Handler: x.alertsHandler()}
		x.receiver.ConfigureServer(receiver)
		limitConnections(receiver, maxConnections)
		servers = append([]*http.Server{receiver}, servers...)
		go func() { stop(serveOn(x.alertListeners, receiver, x.alertsFlags, x.logger)) }()
	}
	for ctx.Err() == nil {
		select {
		case <-hup:
			if err := x.reload(); err != nil {
				x.logger.Error("configuration not reloaded, the old one stays", "err", err)
			}
		case <-ctx.Done():
		}
	}

	x.receiver.Stop()
	var errs []error
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		errs = append(errs, fmt.Errorf("serve: %w", cause))
	}
	x.logger.Info("stopping: what is under way is finished first")
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	for _, s := range servers {
		if err := s.Shutdown(ending); err != nil {
			errs = append(errs, fmt.Errorf("stop: %w", err))
		}
	}
	return errors.Join(errs...)
}
