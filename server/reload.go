package server

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tcphup/config"
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
func (x *server) load() (config.Config, error) {
	c := config.Default()
	if x.options.ConfigFile != "" {
		var err error
		if c, err = x.readConfig(x.options.ConfigFile); err != nil {
			return config.Config{}, err
		}
	}
	if err := c.AddServices(x.options.Services); err != nil {
		return config.Config{}, fmt.Errorf("--service: %w", err)
	}
	return c, nil
}

// reload reads the configuration file and puts its content in force. After an error
// the previous configuration stays in force. Concurrent reloads run one after the
// other, so the file that was read last is in force after the last of them.
func (x *server) reload() error {
	x.reloading.Lock()
	defer x.reloading.Unlock()
	c, err := x.load()
	if err == nil {
		err = x.receiver.Reload(c.Rules)
	}
	if err == nil {
		err = x.watcher.Reload(watched(&c))
	}
	x.reloads.set(err == nil)
	if err != nil {
		return err
	}
	x.addPolicies(c)
	x.logger.Info("configuration reloaded", "file", x.options.ConfigFile, "policies", len(c.Rules.Policies), "mode", x.receiver.Mode())
	return nil
}

// addPolicies exports the counters of the policies as 0.
func (x *server) addPolicies(c config.Config) {
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
