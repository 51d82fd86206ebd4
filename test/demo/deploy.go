package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Where the programs listen, for those who look at them from the same host.
const (
	tcphupAddress       = "127.0.0.1:10471"
	prometheusAddress   = "127.0.0.1:9090"
	alertmanagerAddress = "127.0.0.1:9093"
)

// The waits between a failover and the hang-up, far shorter than in earnest.
const (
	lookup    = "1s"    // tcphup: between lookups of the name
	settle    = "2s"    // tcphup: until an address that the name has lost is former
	interval  = "500ms" // Prometheus: between scrapes, and between evaluations
	pending   = "1s"    // Prometheus: until the alert fires
	groupWait = "1s"    // Alertmanager: until it notifies

	shortWaits = "lookup interval " + lookup + " (default 15s), settle " + settle + " (default 1m), scrape and evaluation interval " + interval + " (default 1m), " +
		"for " + pending + " (shipped 1m), group_wait " + groupWait + " (shipped 5s)"
)

// What deploy/ calls the alert and its receiver.
const (
	alertName    = "TcphupStaleSockets"
	receiverName = "tcphup-" + hostAddress
)

// startTcphup starts all that the host of an application needs. It is told which name
// to watch, and has a token, without which no alert would hang anything up. No policy
// is written, so the embedded one applies: an alert with the label tcphup="hangup"
// that names the service hangs up the connections to its former addresses.
func (s *stage) startTcphup() error {
	err := errors.Join(
		write("tcphup.yml", `
services:
  - {name: `+serviceName+`, port: `+servicePort+`, settle: `+settle+`, interval: `+lookup+`}
`),
		write("tcphup.token", rand.Text()+"\n"),
	)
	if err != nil {
		return err
	}
	s.tcphup, err = s.start(s.options.tcphup, "serve",
		"--config.file=tcphup.yml",
		"--alerts.token-file=tcphup.token",
		"--alerts.listen-address="+hostAddress+":10472")
	return err
}

// startPrometheus has it scrape tcphup and evaluate the shipped rules. The address
// that it scrapes becomes the label instance, by which Alertmanager tells where an
// alert has to go.
func (s *stage) startPrometheus() error {
	err := errors.Join(
		shipped("rules.yml", "rules.yml", "for: 1m", "for: "+pending),
		write("prometheus.yml", `
global:
  scrape_interval: `+interval+`
  scrape_timeout: `+interval+`
  evaluation_interval: `+interval+`
rule_files: [rules.yml]
scrape_configs:
  - job_name: tcphup
    static_configs:
      - targets: ['`+hostAddress+`:10471']
alerting:
  alertmanagers:
    - static_configs:
        - targets: ['`+alertmanagerAddress+`']
`),
	)
	if err != nil {
		return err
	}
	_, err = s.start(prometheusProgram,
		"--config.file=prometheus.yml",
		"--storage.tsdb.path=prometheus",
		"--web.listen-address="+prometheusAddress)
	return err
}

// startAlertmanager has it send alerts with the label tcphup="hangup" to the tcphup
// that they came from, with its token.
func (s *stage) startAlertmanager() error {
	err := shipped("alertmanager.yml", "alertmanager-plain.example.yml",
		"group_wait: 5s", "group_wait: "+groupWait,
		"credentials_file: /etc/alertmanager/tcphup.token", "credentials_file: tcphup.token")
	if err != nil {
		return err
	}
	_, err = s.start(alertmanagerProgram,
		"--config.file=alertmanager.yml",
		"--storage.path=alertmanager",
		"--cluster.listen-address=",
		"--web.listen-address="+alertmanagerAddress)
	return err
}

// shipped writes a file of deploy/ with some changes, in pairs of old and new. Each
// old text must be there once: nothing is shown but what is shipped.
func shipped(name, from string, changes ...string) error {
	content, err := os.ReadFile(filepath.Join("deploy", from))
	if err != nil {
		return fmt.Errorf("run at the top of the repository: %w", err)
	}
	text := string(content)
	for i := 0; i < len(changes); i += 2 {
		if n := strings.Count(text, changes[i]); n != 1 {
			return fmt.Errorf("deploy/%s has %q %d times, not once", from, changes[i], n)
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	return write(name, text)
}
