package server

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/config"
)

type reloadMetrics struct{ successful, time prometheus.Gauge }

func newReloadMetrics() reloadMetrics {
	return reloadMetrics{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tcphup_config_last_reload_successful",
			Help: "Whether the last configuration reload succeeded: 1 yes, 0 no. After a failure the previous configuration stays in force.",
		}),
		time: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tcphup_config_last_reload_success_timestamp_seconds",
			Help: "Unix timestamp of the last successful configuration reload.",
		}),
	}
}

func (m reloadMetrics) set(ok bool) {
	if !ok {
		m.successful.Set(0)
		return
	}
	m.successful.Set(1)
	m.time.SetToCurrentTime()
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
// the last one applies the file that was read last.
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
	x.reloads.set(err == nil)
	if err != nil {
		x.logger.Error("configuration reload failed, keeping previous configuration", "err", err)
		return false
	}
	x.addPolicies(c)
	x.logger.Info("configuration reloaded", "file", x.options.ConfigFile, "policies", len(c.Rules.Policies), "mode", x.receiver.Mode())
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
