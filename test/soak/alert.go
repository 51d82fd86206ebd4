package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"time"
)

// waits are the delays between Alertmanager's retries, and the final one until it repeats
// the notification.
var waits = []time.Duration{
	300 * time.Millisecond, time.Second, 2500 * time.Millisecond, 4 * time.Second, 6600 * time.Millisecond, 10 * time.Second, 10 * time.Second,
}

// alertCounts counts alerts by result.
type alertCounts struct{ sent, retried, repeated, lost, harmless int }

// anyPlace selects one of the places for an alert, and returns those to which it applies and
// the labels that name them: in node mode the namespace, and half of the time the pod.
func (s *soak) anyPlace() (places []int, labels map[string]string) {
	p := s.places[rand.IntN(len(s.places))]
	if p.pod == "" {
		return []int{0}, map[string]string{}
	}
	labels = map[string]string{"namespace": p.namespace}
	if rand.IntN(2) == 0 {
		labels["pod"] = p.pod
	}
	return s.scope(p.namespace, labels["pod"]), labels
}

// alertLoop posts an alert every few seconds until busy ends.
func (s *soak) alertLoop(ctx, busy context.Context) {
	// 2 to 5 seconds; less in a short run.
	mean := min(3500*time.Millisecond, s.duration/15)
	for n := 1; s.sleep(busy, mean*4/7+rand.N(mean*6/7)); n++ {
		if n%5 == 0 {
			s.waiting.Go(func() { s.alertHarmless(ctx) })
			continue
		}
		targets := s.checker.targets()
		index := targets[rand.IntN(len(targets))]
		s.waiting.Go(func() { s.alert(ctx, index) })
	}
}

// alert posts an alert about a target and retries until its flows are gone. The alert is
// lost when flows remain after all retries of Alertmanager.
func (s *soak) alert(ctx context.Context, index int) {
	d := &destinations[index]
	places, labels := s.anyPlace()
	labels["alertname"] = d.policy
	if d.formerOnly {
		labels["service"] = serviceName
	} else {
		labels["destination"] = d.address.Addr().String()
		if rand.IntN(2) == 0 {
			labels["port"] = fmt.Sprint(d.address.Port())
		}
	}
	since := time.Now()
	flows, err := s.flows(ctx, d, places)
	if err != nil {
		s.fail(err)
		return
	}
	if d.beforeAlert {
		// tcphup knows the age of a flow from its first scrape, at a resolution of 0.1 s.
		if !s.awaitScrapes(ctx) {
			return
		}
		s.sleep(ctx, 200*time.Millisecond)
	}
	s.fire(ctx, index, places, labels, func(ctx context.Context) (int, error) {
		left, err := s.left(ctx, d, places, flows, since)
		if d.formerOnly && !s.checker.vacated(d.address.Addr()) {
			left = 0 // the service has moved back
		}
		return left, err
	})
}

// fire posts an alert that applies to places, and retries until no flow is left.
func (s *soak) fire(ctx context.Context, index int, places []int, labels map[string]string, left func(context.Context) (int, error)) {
	d := &destinations[index]
	startsAt := time.Now()
	s.checker.begin(places, index, startsAt)
	defer s.checker.done(places, index)
	body := notification(labels, startsAt)
	s.count(func(c *counts) { c.alerts.sent++ })
	last := "" // result of the last attempt
	for _, wait := range append([]time.Duration{0}, waits...) {
		if !s.sleep(ctx, wait) {
			return
		}
		begun, waited := time.Now(), waitedForProcessor(s.tcphup.cmd.Process.Pid)
		code, answer, err := s.post(ctx, "/alerts", body)
		if err == nil && code == http.StatusOK {
			took := time.Since(begun)
			waited = waitedForProcessor(s.tcphup.cmd.Process.Pid) - waited
			s.count(func(c *counts) { c.responses.add(took, waited) })
		}
		last = fmt.Sprint(code, " ", answer, " ", err)
		if err != nil || code >= 500 {
			s.count(func(c *counts) { c.alerts.retried++ })
			continue
		}
		if code != http.StatusOK {
			s.checker.fail("alert rejected: %v: %s", d, last)
			return
		}
		n, err := left(ctx)
		if err != nil {
			s.fail(err)
			return
		}
		if n == 0 {
			return
		}
		last = fmt.Sprintf("%d flows still open after %s", n, last)
		s.count(func(c *counts) { c.alerts.repeated++ })
		fmt.Fprintf(os.Stderr, "repeating alert: %v: %s\n", d, last)
	}
	s.count(func(c *counts) { c.alerts.lost++ })
	s.checker.fail("alert lost: %v: %s", d, last)
}

// alertHarmless posts an alert that must not close any flow: its destination is on the
// never list, or its policy is a shadow policy.
func (s *soak) alertHarmless(ctx context.Context) {
	_, labels := s.anyPlace()
	labels["alertname"], labels["destination"] = "forbidden", forbiddenAddress
	want := "denied"
	if rand.IntN(2) == 0 {
		labels["alertname"], labels["destination"], want = "shadow", shadowAddress, "shadow"
	}
	code, answer, err := s.post(ctx, "/alerts", notification(labels, time.Now()))
	if err != nil || code >= 500 {
		return // paused, for instance; a retry adds no coverage
	}
	s.count(func(c *counts) { c.alerts.harmless++ })
	var result struct{ Alerts map[string]int }
	if json.Unmarshal([]byte(answer), &result) != nil || result.Alerts[want] != 1 {
		s.checker.fail("harmless alert: want outcome %s, got %d %s", want, code, answer)
	}
}

// notification returns the body of Alertmanager's notification of one firing alert.
func notification(labels map[string]string, startsAt time.Time) []byte {
	body, err := json.Marshal(map[string]any{
		"version": "4", "groupKey": fmt.Sprint(labels), "status": "firing", "receiver": "tcphup", "externalURL": "http://soak",
		"alerts": []any{map[string]any{
			"status": "firing", "labels": labels, "startsAt": startsAt, "endsAt": time.Time{}, "fingerprint": fmt.Sprintf("%016x", rand.Uint64()),
		}},
	})
	if err != nil {
		panic(err) // impossible: strings and numbers only
	}
	return body
}

// post sends an authenticated POST request to the alert receiver.
func (s *soak) post(ctx context.Context, path string, body []byte) (code int, answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+alertsAddress+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+s.token)
	response, err := s.http.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(bytes.TrimSpace(text)), err
}

// targets returns the indices of the destinations that an alert can name now. A former
// address of the service counts once tcphup must have detected the move.
func (c *checker) targets() (indices []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range destinations {
		d := &destinations[i]
		left := c.leftAt[d.address.Addr()]
		surelyFormer := left.After(c.backAt[d.address.Addr()]) && time.Since(left) > settle+lookupDelay+2*effectDelay
		if d.target() && !d.swapped && (!d.formerOnly || surelyFormer) {
			indices = append(indices, i)
		}
	}
	return indices
}
