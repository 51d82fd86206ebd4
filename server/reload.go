package server

import (
	"cmp"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/config"
)

// reloadStatus is the result of the last reload and the configuration in force.
type reloadStatus struct {
	successful, time prometheus.Gauge
	info             *prometheus.GaugeVec
	inForce          atomic.Pointer[string]
}

func newReloadStatus() *reloadStatus {
	return &reloadStatus{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tcphup_config_last_reload_successful",
			Help: "Whether the last configuration reload succeeded: 1 yes, 0 no. After a failure the previous configuration stays in force.",
		}),
		time: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tcphup_config_last_reload_success_timestamp_seconds",
			Help: "Unix timestamp of the last successful configuration reload.",
		}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tcphup_config_info",
			Help: "The configuration in force, by the first 12 digits of the file's SHA-256 hash (sha256sum), or none without a file. Constant 1.",
		}, []string{"sha256"}),
	}
}

// succeed records that the configuration with this hash is in force.
func (s *reloadStatus) succeed(sha256 string) {
	hash := cmp.Or(sha256, "none")
	s.successful.Set(1)
	s.time.SetToCurrentTime()
	s.info.Reset()
	s.info.WithLabelValues(hash).Set(1)
	s.inForce.Store(new(fmt.Sprintf("configuration: sha256 %s, loaded at %s", hash, time.Now().UTC().Format(time.RFC3339))))
}

// handleReady responds with the configuration in force.
func (s *reloadStatus) handleReady(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "tcphup is ready.\n%s\n", *s.inForce.Load())
}

// load reads the configuration file, or returns the default without one, and adds the
// services of the flags.
func (x *server) load() (config.Config, error) {
	c := config.Default()
	if x.options.ConfigFile != "" {
		var err error
		if c, err = x.readConfig(x.options.ConfigFile); err != nil {
			return config.Config{}, err
		}
	}
	for _, warning := range c.Warnings {
		x.logger.Warn("configuration warning", "detail", warning)
	}
	if err := c.AddServices(x.options.Services); err != nil {
		return config.Config{}, fmt.Errorf("--service: %w", err)
	}
	return c, nil
}

// reload reads the configuration file, applies it and reports success. It logs an error
// and keeps the previous configuration. Concurrent reloads run one after the other, so
// the last one applies the file that was read last. A successful reload requests a self-test.
func (x *server) reload() bool {
	x.reloading.Lock()
	defer x.reloading.Unlock()
	c, err := x.load()
	if err == nil {
		err = x.receiver.Reload(c.Rules)
	}
	if err == nil {
		err = x.watcher.Reload(c.Watched())
	}
	if err != nil {
		x.reloads.successful.Set(0)
		x.logger.Error("configuration reload failed, keeping previous configuration", "err", err)
		return false
	}
	x.reloads.succeed(c.SHA256)
	x.addPolicies(c)
	x.selfTest.request()
	x.logger.Info("configuration reloaded", "file", x.options.ConfigFile, "sha256", c.SHA256, "policies", len(c.Rules.Policies), "mode", x.receiver.Mode())
	return true
}

// addPolicies initializes the counters of the policies to 0.
func (x *server) addPolicies(c config.Config) {
	for i := range c.Rules.Policies {
		x.actuator.AddPolicy(c.Rules.Policies[i].Name)
	}
}

func (x *server) handleReload(w http.ResponseWriter, _ *http.Request) {
	if !x.reload() {
		http.Error(w, "configuration reload failed, keeping previous configuration: see the log", http.StatusInternalServerError)
	}
}
