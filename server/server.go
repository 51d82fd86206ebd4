// Package server runs tcphup serve: it exports metrics, shows the status page and
// receives alerts. The other packages meet here.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/collector"
	"tcphup/config"
	"tcphup/services"
)

// Options configure Run.
type Options struct {
	Logger *slog.Logger
	// ConfigFile is the path of the configuration file; empty means config.Default.
	ConfigFile string
	// Services are watched in addition to those of the configuration file.
	Services []services.Service
	// Web has the listen addresses and the web configuration for metrics and the
	// status page.
	Web *web.FlagConfig
	// AlertsAddress is the listen address of the alert receiver; empty disables it.
	AlertsAddress string
	// AlertsWebConfig is the path of the receiver's web configuration; empty means none.
	AlertsWebConfig string
	// AuditFile is the path of the file to which audit records are appended; empty keeps
	// the last records in memory only.
	AuditFile string

	// StateDirectory is the directory for state that survives a restart; empty means the
	// first entry of STATE_DIRECTORY (systemd.exec(5)), and without it no state is kept.
	StateDirectory string

	// Alerts and Collector configure these parts. Run sets the fields that connect them
	// with each other, with the listeners and with Logger.
	Alerts    alerts.Config
	Collector collector.Config
}

// OptionsError is a mistake in the Options or in a file that they name.
type OptionsError struct{ Err error }

// Error implements error.
func (e *OptionsError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *OptionsError) Unwrap() error { return e.Err }

// server has the parts of a running tcphup serve.
type server struct {
	options   Options
	logger    *slog.Logger
	registry  *prometheus.Registry
	collector *collector.Collector
	actuator  *actuator.Actuator
	watcher   *services.Watcher
	receiver  *alerts.Receiver
	audit     *alerts.Audit
	started   time.Time
	checks    []actuator.Check // results of the self-test at the start

	reloads   reloadMetrics
	reloading sync.Mutex // held from the read of the file until its content is in force
	// readConfig reads a configuration file; it is config.Load.
	readConfig func(path string) (config.Config, error)

	alertsFlags                      *web.FlagConfig
	metricsListeners, alertListeners []net.Listener
}

func newServer(o Options) *server {
	return &server{options: o, logger: o.Logger, registry: prometheus.NewRegistry(), started: time.Now(), readConfig: config.Load}
}

// Run serves until ctx ends, then waits for running actions. It returns an OptionsError
// for options that it cannot serve with. For good it hides the memory of the process
// from other processes and drops the capabilities that serving does not need.
func Run(ctx context.Context, o Options) error {
	if os.Getenv("GOGC") == "" {
		// There may be ten thousand sidecars: a few megabytes of each are worth more than
		// the milliseconds a minute that collecting four times as often takes.
		debug.SetGCPercent(25)
	}
	if err := hideMemory(); err != nil {
		return err
	}
	if err := o.checkCredentials(); err != nil {
		return &OptionsError{err}
	}
	x := newServer(o)
	closeAudit, err := x.openAudit()
	if err != nil {
		return &OptionsError{err}
	}
	defer closeAudit()
	if slices.Contains(*o.Web.WebListenAddresses, "") {
		return &OptionsError{errors.New("--web.listen-address is empty: write ADDRESS:PORT, or :PORT for every address")}
	}
	if err := x.listen(); err != nil {
		return err
	}
	// Files that are read again later are read without the dropped capabilities from
	// here on, so an unreadable file is an error at the start and not at a reload.
	kept, err := dropPrivileges(o.AlertsAddress != "", o.ConfigFile != "" || *o.Web.WebConfigFile != "")
	if err != nil {
		return err
	}
	c, err := x.load()
	if err == nil {
		err = o.checkWebFile()
	}
	if err == nil {
		err = x.build(c)
	}
	if err != nil {
		return &OptionsError{err}
	}
	defer x.actuator.Close()
	x.logStart(capabilityNames(kept))
	x.probe(ctx)
	if err := x.serveUntilDone(ctx); err != nil {
		return err
	}
	x.logger.Info("stopped")
	return nil
}

// build makes the parts and connects them.
func (x *server) build(c config.Config) error {
	o := x.options
	var err error
	if x.watcher, err = services.New(services.Config{
		Logger: x.logger, Services: watched(&c), StateDirectory: stateDirectory(o.StateDirectory),
	}); err != nil {
		return err
	}
	o.Collector.Logger = x.logger
	o.Collector.Observer = x.watcher.Sockets()
	o.Collector.Pinned = func(addresses netip.Prefix, port uint16) bool {
		return x.watcher.Pinned(addresses, port) || x.receiver.Allows(addresses, port)
	}
	if x.collector, err = collector.New(o.Collector); err != nil {
		return err
	}
	x.actuator = actuator.New(actuator.Config{Logger: x.logger, FirstSeen: x.collector.FirstSeen})
	o.Alerts.Audit, o.Alerts.Names = x.audit, x.watcher
	o.Alerts.NoListener = o.AlertsAddress == ""
	x.receiver, err = alerts.NewReceiver(o.Alerts, c.Rules, x.actuator, x.logger)
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

// logStart logs the mode, and why alerts hang up nothing where that needs a change.
func (x *server) logStart(capabilities string) {
	mode := x.receiver.Mode()
	x.logger.Info("starting tcphup", "version", version.Info(), "mode", mode, "capabilities", capabilities)
	if mode == alerts.ModeShadow && !x.options.Alerts.HasCredentials() {
		x.logger.Warn("alerts hang up nothing: senders need no credentials; add --alerts.token-file or --alerts.web-config-file")
	}
	if x.receiver.Paused() {
		x.logger.Warn("alerts hang up nothing: paused", "file", x.options.Alerts.PauseFile)
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
		if !c.Usable && x.options.AlertsAddress != "" {
			level = slog.LevelWarn
		}
		x.logger.LogAttrs(ctx, level, "self-test", slog.String("check", c.Name), slog.Bool("usable", c.Usable),
			slog.String("detail", c.Detail), slog.String("fix", c.Fix))
	}
}
