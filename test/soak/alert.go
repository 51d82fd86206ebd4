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

// waits are those of Alertmanager between tries, and what then passes until it
// sends the alert again.
var waits = []time.Duration{
	300 * time.Millisecond, time.Second, 2500 * time.Millisecond, 4 * time.Second, 6600 * time.Millisecond, 10 * time.Second, 10 * time.Second,
}

// alertCounts is what became of the alerts.
type alertCounts struct{ sent, retried, repeated, lost, harmless int }

// alertAll posts alerts, one each few seconds.
func (s *soak) alertAll(ctx, busy context.Context) {
	// From 2 to 5 seconds, but in a short run.
	mean := min(3500*time.Millisecond, s.duration/15)
	for n := 1; s.sleep(busy, mean*4/7+rand.N(mean*6/7)); n++ {
		if n%5 == 0 {
			s.waiting.Go(func() { s.alertHarmless(ctx) })
			continue
		}
		victims := s.judge.victims()
		index := victims[rand.IntN(len(victims))]
		s.waiting.Go(func() { s.alert(ctx, index) })
	}
}

// alert posts one about a victim and tries until the flows that it is about are gone.
// When they are there after all the tries of Alertmanager, the alert is lost.
func (s *soak) alert(ctx context.Context, index int) {
	d := &destinations[index]
	labels := map[string]string{"alertname": d.policy, "destination": d.address.Addr().String()}
	switch {
	case d.formerOnly:
		labels = map[string]string{"alertname": d.policy, "service": serviceName}
	case rand.IntN(2) == 0:
		labels["port"] = fmt.Sprint(d.address.Port())
	}
	since := time.Now()
	flows, err := d.flows(ctx)
	if err != nil {
		s.fail(err)
		return
	}
	if d.beforeAlert {
		// That a flow is older than the alert is known once a scrape has seen it, to a
		// tenth of a second.
		for seen := s.scrapes.Load(); s.scrapes.Load() < seen+2; {
			if !s.sleep(ctx, 100*time.Millisecond) {
				return
			}
		}
		s.sleep(ctx, 200*time.Millisecond)
	}
	startsAt := time.Now()
	s.judge.begin(index, startsAt)
	defer s.judge.done(index)
	body := notification(labels, startsAt)
	s.count(func(c *counts) { c.alerts.sent++ })
	last := ""
	for _, wait := range append([]time.Duration{0}, waits...) {
		if !s.sleep(ctx, wait) {
			return
		}
		code, answer, err := s.post(ctx, "/alerts", body)
		last = fmt.Sprint(code, " ", answer, " ", err)
		if err != nil || code >= 500 {
			s.count(func(c *counts) { c.alerts.retried++ })
			continue
		}
		if code != http.StatusOK {
			s.judge.fail("alert about %v: %s", d, last)
			return
		}
		left, err := d.left(ctx, flows, since)
		if err != nil {
			s.fail(err)
			return
		}
		if left == 0 || d.formerOnly && !s.judge.isLeft(d.address.Addr()) {
			return // or the service has come back meanwhile
		}
		last = fmt.Sprintf("%d flows are still open after %s", left, last)
		s.count(func(c *counts) { c.alerts.repeated++ })
		fmt.Fprintf(os.Stderr, "repeat alert about %v: %s\n", d, last)
	}
	s.count(func(c *counts) { c.alerts.lost++ })
	s.judge.fail("alert lost: about %v: %s", d, last)
}

// alertHarmless posts one that must close nothing: what it names is forbidden, or
// its policy only plans.
func (s *soak) alertHarmless(ctx context.Context) {
	labels, want := map[string]string{"alertname": "forbidden", "destination": forbiddenAddress}, "denied"
	if rand.IntN(2) == 0 {
		labels, want = map[string]string{"alertname": "shadow", "destination": shadowAddress}, "shadow"
	}
	code, answer, err := s.post(ctx, "/alerts", notification(labels, time.Now()))
	if err != nil || code >= 500 {
		return // as when paused; it need not be tried again
	}
	s.count(func(c *counts) { c.alerts.harmless++ })
	var result struct{ Alerts map[string]int }
	if json.Unmarshal([]byte(answer), &result) != nil || result.Alerts[want] != 1 {
		s.judge.fail("an alert that is %s got the answer %d %s", want, code, answer)
	}
}

// notification is what Alertmanager posts for one firing alert.
func notification(labels map[string]string, startsAt time.Time) []byte {
	body, err := json.Marshal(map[string]any{
		"version": "4", "groupKey": fmt.Sprint(labels), "status": "firing", "receiver": "tcphup", "externalURL": "http://soak",
		"alerts": []any{map[string]any{
			"status": "firing", "labels": labels, "startsAt": startsAt, "endsAt": time.Time{}, "fingerprint": fmt.Sprintf("%016x", rand.Uint64()),
		}},
	})
	if err != nil {
		panic(err) // text and numbers alone
	}
	return body
}

// post asks the receiver of alerts for something, with the token.
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

// victims are the destinations that an alert can be about now: a former address of
// the service only when it has been one for so long that tcphup must know.
func (j *judge) victims() (indices []int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range destinations {
		d := &destinations[i]
		left := j.left[d.address.Addr()]
		surelyFormer := left.After(j.back[d.address.Addr()]) && time.Since(left) > settle+lookedUp+2*late
		if d.victim() && (!d.formerOnly || surelyFormer) {
			indices = append(indices, i)
		}
	}
	return indices
}
