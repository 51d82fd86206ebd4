package main

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reloadMetrics tell whether the configuration in force is the one on disk.
type reloadMetrics struct{ successful, time prometheus.Gauge }

func newReloadMetrics() reloadMetrics {
	return reloadMetrics{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tcphup_config_last_reload_successful",
			Help: "Whether the last attempt to read the configuration file succeeded: 1 yes, 0 no and the old one stays.",
		}),
		time: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tcphup_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration was last read with success, in seconds since 1970.",
		}),
	}
}

func (m reloadMetrics) set(ok bool) {
	if !ok {
		m.successful.Set(0)
		return
	}
	m.successful.Set(1)
	m.time.Set(float64(time.Now().UnixNano()) / float64(time.Second))
}

// load reads the configuration file, if there is one.
func (x *server) load() (config, error) {
	c := defaultConfig()
	if x.configFile != "" {
		var err error
		if c, err = loadConfig(x.configFile); err != nil {
			return config{}, err
		}
	}
	return c, c.addServices(x.services)
}

// reload puts the file's present content in force, or leaves everything as it is.
func (x *server) reload() error {
	c, err := x.load()
	if err == nil {
		err = x.receiver.Reload(c.Rules)
	}
	if err == nil {
		err = x.watcher.Reload(c.watched())
	}
	x.reloads.set(err == nil)
	if err != nil {
		return err
	}
	x.addPolicies(c)
	x.logger.Info("configuration reloaded", "file", x.configFile, "policies", len(c.Rules.Policies))
	return nil
}

// addPolicies makes the counters of the policies start at 0.
func (x *server) addPolicies(c config) {
	for i := range c.Rules.Policies {
		x.actuator.AddPolicy(c.Rules.Policies[i].Name)
	}
}

func (x *server) handleReload(w http.ResponseWriter, _ *http.Request) {
	if err := x.reload(); err != nil {
		x.logger.Error("configuration not reloaded, the old one stays", "err", err)
		http.Error(w, "not reloaded, the old configuration stays; the log says why", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusOK)
}
