package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// alertFlows is the number of flows that one alert hangs up.
const alertFlows = 10

// Names of the alert receivers in the report.
const (
	alertName        = "tcphup serve"
	alertNoWatchName = "tcphup serve --watch-reconnect=0s"
)

// alerts has the times from an alert to the end of the last flow at one load.
type alerts struct {
	Sockets int
	// Killed is set if SIGPIPE would kill the processes of the load: the search for the owners
	// must read all their descriptors.
	Killed bool
	results
	answered results // times to the HTTP response, or to the exit of ss
}

// alertRounds returns the number of rounds: fewer at large loads, where each takes long.
func alertRounds(o options, sockets int) int {
	if sockets >= 50_000 {
		return max(1, o.alerts/5)
	}
	return o.alerts
}

// policy has limits that never delay a hang-up.
const policy = `
policies:
  - name: bench
    match: ['tcphup="hangup"']
    allow: [127.0.0.0/8]
    limits: {cooldown: 0s, rate: 10000, breaker: {actions: 1000000, destinations: 1000000}}
`

const token = "bench-token-for-loopback-only"

// alert measures the time from the POST of a notification with one alert to the end of
// its last flow, as read by the service. ss -K is measured from its process start.
func (r *report) alert(o options, sockets int) (out *alerts, err error) {
	s, err := startService()
	if err != nil {
		return nil, err
	}
	stops := []func() error{s.stop}
	defer func() {
		for _, stop := range stops {
			err = errors.Join(err, stop())
		}
	}()
	policyFile, tokenFile := filepath.Join(dir, "tcphup.yml"), filepath.Join(dir, "tcphup.token")
	err = errors.Join(os.WriteFile(policyFile, []byte(policy), 0o600), os.WriteFile(tokenFile, []byte(token+"\n"), 0o600))
	if err != nil {
		return nil, err
	}
	out = &alerts{Sockets: sockets, answered: make(results)}
	// round runs act, which ends the flows, and records when it returns.
	round := func(name string, reset bool, act func() error) candidate {
		return candidate{name, func() (sample, error) {
			if err := s.connect(alertFlows); err != nil {
				return sample{}, err
			}
			start := time.Now()
			answered := make(chan time.Time, 1)
			failed := make(chan error, 1)
			go func() {
				err := act()
				answered <- time.Now()
				failed <- err
			}()
			last, err := s.wait(alertFlows, reset)
			out.answered[name] = append(out.answered[name], sample{wall: (<-answered).Sub(start)})
			return sample{wall: last.Sub(start)}, errors.Join(err, <-failed, dropTimeWait())
		}}
	}
	var candidates []candidate
	for i, name := range []string{alertName, alertNoWatchName} {
		web, receiver := "127.0.0.1:"+strconv.Itoa(10481+2*i), "127.0.0.1:"+strconv.Itoa(10482+2*i)
		args := []string{"serve", "--web.listen-address=" + web, "--alerts.listen-address=" + receiver,
			"--alerts.token-file=" + tokenFile, "--config.file=" + policyFile, "--log.level=warn"}
		if name == alertNoWatchName {
			args = append(args, "--watch-reconnect=0s")
		}
		server, err := startServer(web, "/-/ready", o.tcphup, args...)
		if err != nil {
			return nil, err
		}
		stops = append(stops, server.stop)
		candidates = append(candidates, round(name, false, func() error { return s.post(receiver) }))
	}
	if r.Destroy {
		candidates = append(candidates, round(ssKillName, true, func() error {
			_, err := timed("ss", append([]string{"-K"}, s.filter()...)...)
			return err
		}))
	}
	if _, err := runRounds(2, candidates); err != nil {
		return nil, err
	}
	clear(out.answered)
	out.results, err = runRounds(alertRounds(o, sockets), candidates)
	return out, err
}

// post sends Alertmanager's notification of one alert and checks that its flows are closed.
func (s *service) post(receiver string) error {
	body := fmt.Sprintf(`{"version":"4","status":"firing","alerts":[{"status":"firing","fingerprint":"c0ffee","startsAt":%q,
		"labels":{"alertname":"Stale","tcphup":"hangup","destination":%q,"port":%q}}]}`,
		time.Now().UTC().Format(time.RFC3339Nano), s.host(), s.port())
	request, err := http.NewRequest(http.MethodPost, "http://"+receiver+"/alerts", strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && !strings.Contains(string(answer), fmt.Sprintf(`"closed":%d`, alertFlows)) {
		err = fmt.Errorf("post alert: %s: %s", response.Status, answer)
	}
	return err
}
