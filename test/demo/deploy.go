package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Listen addresses of the programs.
const (
	tcphupAddress       = "127.0.0.1:10471"
	prometheusAddress   = "127.0.0.1:9090"
	alertmanagerAddress = "127.0.0.1:9093"
)

// Delays between a failover and the hang-up, far shorter than in production.
const (
	lookup    = "1s"    // tcphup: interval of name lookups
	settle    = "2s"    // tcphup: absence of an address before it counts as former
	interval  = "500ms" // Prometheus: scrape and evaluation interval
	pending   = "1s"    // Prometheus: for of the alert
	groupWait = "1s"    // Alertmanager: group_wait

	shortWaits = "lookup interval " + lookup + " (default 15s), settle " + settle + " (default 1m), scrape and evaluation interval " + interval + " (default 1m), " +
		"for " + pending + " (shipped 1m), group_wait " + groupWait + " (shipped 5s)"
)

// Names of the alert and its receiver in deploy/.
const (
	alertName    = "TcphupStaleSockets"
	receiverName = "tcphup-" + hostAddress
)

// startTcphup starts tcphup with a service name and a token, which alerts require. Without a
// configured policy the embedded one applies: an alert with the label tcphup="hangup" that
// names the service hangs up the connections to its former addresses.
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

// startPrometheus starts Prometheus with tcphup as its target and the shipped rules. The
// target's address becomes the label instance, by which Alertmanager routes the alert.
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

// startAlertmanager starts Alertmanager with the shipped route: alerts with the label
// tcphup="hangup" go to the tcphup of their instance, with its token.
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

// shipped copies a file of deploy/ with changes, given in pairs of old and new text. Each
// old text must occur exactly once, so the demo shows the shipped files.
func shipped(name, from string, changes ...string) error {
	content, err := os.ReadFile(filepath.Join("deploy", from))
	if err != nil {
		return fmt.Errorf("read shipped file: %w; run at the top of the repository", err)
	}
	text := string(content)
	for i := 0; i < len(changes); i += 2 {
		if n := strings.Count(text, changes[i]); n != 1 {
			return fmt.Errorf("edit deploy/%s: %q occurs %d times, want 1", from, changes[i], n)
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	return write(name, text)
}
