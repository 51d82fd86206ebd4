// Package server implements tcphup serve: it wires and runs the exporter, the status page
// and the alert receiver.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/time/rate"

	"tcphup/actuator"
	"tcphup/alerts"
	"tcphup/audit"
	"tcphup/collector"
	"tcphup/config"
	"tcphup/namespaces"
	"tcphup/services"
	"tcphup/sockdiag"
)

// Options configure Run.
type Options struct {
	Logger *slog.Logger
	// LogQueue is the queue that Logger writes to, for its metric; nil without one.
	LogQueue *LineQueue
	// ConfigFile is the path of the configuration file; empty means config.Default.
	ConfigFile string
	// Services are watched in addition to those of the configuration file.
	Services []services.Service
	// Web has the listen addresses and the web configuration of metrics and status page.
	Web *web.FlagConfig
	// AlertsAddress is the listen address of the alert receiver; empty disables it.
	AlertsAddress string
	// AlertsWebConfig is the path of the receiver's web configuration; empty means none.
	AlertsWebConfig string
	// AuditFile is the path of the file to which audit records are appended; empty keeps
	// the last records in memory only.
	AuditFile string

	// StateDirectory is the directory for persistent state; empty means the first entry of
	// STATE_DIRECTORY (systemd.exec(5)). If that is empty too, state is not saved.
	StateDirectory string

	// Node configures node mode.
	Node NodeOptions

	// Alerts and Collector configure these packages. Run sets the fields that depend on
	// other packages, on the listeners or on Logger.
	Alerts    alerts.Config
	Collector collector.Config
}

// Histograms returns the values of Options.Collector.Histograms.
func Histograms() []collector.Histogram { return collector.Histograms() }

// OptionsError is an error in the Options, or in a file that they name.
type OptionsError struct{ Err error }

// Error implements error.
func (e *OptionsError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *OptionsError) Unwrap() error { return e.Err }

// server is a running tcphup serve.
type server struct {
	options   Options
	logger    *slog.Logger
	registry  *prometheus.Registry
	collector *collector.Collector
	actuator  *actuator.Actuator
	watcher   *services.Watcher
	receiver  *alerts.Receiver
	audit     *audit.Log
	node      *namespaces.Node // of node mode
	// unreadable limits the log of processes with an unreadable namespace.
	unreadable rate.Sometimes
	started    time.Time
	selfTest   selfTest

	reloads   *reloadStatus
	reloading sync.Mutex // held from reading the file until it is applied
	// readConfig is config.Load.
	readConfig func(path string) (config.Config, error)

	alertsFlags                      *web.FlagConfig
	metricsListeners, alertListeners []net.Listener
}

func newServer(o Options) *server {
	return &server{
		options: o, logger: o.Logger, registry: prometheus.NewRegistry(), started: time.Now(), readConfig: config.Load,
		node: &namespaces.Node{PodLogs: o.Node.PodLogs}, unreadable: rate.Sometimes{Interval: 10 * time.Minute},
		selfTest: selfTest{requested: make(chan struct{}, 1)},
	}
}

// Run serves until ctx ends, then waits up to 20 s for running actions. It returns an
// OptionsError for invalid options, and in node mode without the pods of a node. It permanently
// makes the process undumpable and drops the capabilities that serving does not need.
func Run(ctx context.Context, o Options) error {
	if os.Getenv("GOGC") == "" {
		// With thousands of sidecars, a few megabytes in each matter more than the CPU time of
		// more frequent garbage collection: milliseconds per minute.
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
		return &OptionsError{errors.New("--web.listen-address is empty: use ADDRESS:PORT, or :PORT for all addresses")}
	}
	if o.StateDirectory != "" {
		if err := os.MkdirAll(o.StateDirectory, 0o700); err != nil {
			return &OptionsError{fmt.Errorf("--state.directory: %w", err)}
		}
	}
	if err := x.listen(); err != nil {
		return err
	}
	// Before the files are read: a file that a reload could not read without the dropped
	// capabilities is then an error at startup.
	kept, err := dropPrivileges(duties{hangsUp: o.AlertsAddress != "", readsFiles: o.ConfigFile != "" || *o.Web.WebConfigFile != "", node: o.Node.Enabled})
	if err != nil {
		return err
	}
	c, err := x.load()
	if err == nil && *o.Web.WebConfigFile != "" {
		_, err = readWebConfig(*o.Web.WebConfigFile)
	}
	if err == nil {
		err = x.build(c)
	}
	if err == nil {
		err = x.checkNode()
	}
	if err != nil {
		return &OptionsError{err}
	}
	defer x.actuator.Close()
	x.logStart(capabilityNames(kept))
	x.runSelfTest(ctx)
	if err := x.serveUntilDone(ctx); err != nil {
		return err
	}
	x.logger.Info("stopped")
	return nil
}

// build creates and connects the collector, actuator, watcher and receiver.
func (x *server) build(c config.Config) error {
	o := x.options
	var err error
	if x.watcher, err = services.New(services.Config{
		Logger: x.logger, Services: c.Watched(), StateDirectory: stateDirectory(o.StateDirectory),
		FirstSeen:        func(f *sockdiag.Flow) (time.Time, bool) { return x.collector.FirstSeen(f) },
		EstablishedAfter: func(f *sockdiag.Flow) (time.Time, bool) { return x.collector.EstablishedAfter(f) },
	}); err != nil {
		return err
	}
	o.Collector.Logger = x.logger
	o.Collector.StateDirectory = stateDirectory(o.StateDirectory)
	if o.Node.Enabled {
		o.Collector.Node = &collector.NodeConfig{
			Find: x.findPods, Budget: o.Node.CPUBudget, MaxDestinationsPerPod: o.Node.MaxDestinationsPerPod, Observer: x.watcher,
		}
		o.Alerts.Pods = x.pods
	} else {
		o.Collector.Observer = x.watcher
	}
	o.Collector.Pinned = func(addresses netip.Prefix, port uint16) bool {
		return x.watcher.Pinned(addresses, port) || x.receiver.Allows(addresses, port)
	}
	if x.collector, err = collector.New(o.Collector); err != nil {
		return err
	}
	x.actuator = actuator.New(actuator.Config{Logger: x.logger, FirstSeen: x.collector.FirstSeen, EstablishedAfter: x.collector.EstablishedAfter})
	o.Alerts.Audit, o.Alerts.Names = x.audit, x.watcher
	o.Alerts.Authenticated = markAuthenticated
	o.Alerts.NoListener = o.AlertsAddress == ""
	x.receiver, err = alerts.NewReceiver(o.Alerts, c.Rules, x.actuator, x.logger)
	if err != nil {
		return err
	}
	x.addPolicies(c)
	x.reloads = newReloadStatus()
	dropped := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "tcphup_log_lines_dropped_total",
		Help: "Log lines that were dropped because standard error could not be written.",
	}, func() float64 { return float64(o.LogQueue.Dropped()) })
	for _, c := range []prometheus.Collector{
		versioncollector.NewCollector("tcphup"),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		x.actuator, x.watcher, x.receiver, x.reloads.successful, x.reloads.time, x.reloads.info, dropped,
	} {
		if err := x.registry.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	x.reloads.succeed(c.SHA256)
	return nil
}

// stateDirectory returns option, or else the first entry of STATE_DIRECTORY, which may be
// empty.
func stateDirectory(option string) string {
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return cmp.Or(option, first)
}

// logStart logs the version, mode and capabilities, and warns if no alert can close
// connections.
func (x *server) logStart(capabilities string) {
	mode := x.receiver.Mode()
	x.logger.Info("starting tcphup", "version", version.Info(), "mode", mode, "capabilities", capabilities)
	if mode == alerts.ModeShadow && !x.options.Alerts.HasCredentials() {
		x.logger.Warn("shadow mode: receiver requires no credentials", "fix", "set --alerts.token-file or --alerts.web-config-file")
	}
	if x.receiver.Paused() {
		x.logger.Warn("alerts are paused", "file", x.options.Alerts.PauseFile)
	}
}
