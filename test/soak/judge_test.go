package main

import (
	"slices"
	"testing"
	"time"
)

// A hang-up that an alert asked for is right, and any other is not, whatever it is
// that was not as the alert or its policy says.
func TestJudge(t *testing.T) {
	victim := func(policy string) int {
		return slices.IndexFunc(destinations, func(d destination) bool { return d.policy == policy })
	}
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	service := destinations[victim("failover")].address.Addr()
	// An alert that is under way, and a connection that it may be about.
	alert := func(policy string, startsAt time.Time) func(*judge) {
		return func(j *judge) { j.begin(victim(policy), startsAt) }
	}
	about := func(policy string) end {
		return end{Destination: victim(policy), Opened: ago(time.Minute), LastData: ago(30 * time.Second), Noticed: now}
	}
	tests := []struct {
		name    string
		before  func(*judge)
		end     end
		change  func(*end)
		want    string
		setting func(*judge)
	}{
		{name: "asked for", before: alert("plain", ago(time.Second)), end: about("plain")},
		{name: "no alert", before: func(*judge) {}, end: about("plain"), want: "no alert was about it"},
		{name: "an alert about another", before: alert("idle", ago(time.Second)), end: about("plain"), want: "no alert was about it"},
		{name: "an alert long ago", before: func(j *judge) {
			alert("plain", ago(time.Minute))(j)
			j.done(victim("plain"))
		}, end: about("plain"), change: func(e *end) { e.Noticed = now.Add(late + time.Second) }, want: "no alert was about it"},
		{name: "mute", before: alert("plain", ago(time.Second)), end: about("plain"), change: func(e *end) { e.Mute = true }, want: "it is open, and nothing is answered"},
		{name: "older than the alert", before: alert("before-alert", ago(time.Second)), end: about("before-alert")},
		{name: "younger than the alert", before: alert("before-alert", ago(2*time.Minute)), end: about("before-alert"), want: "opened 1m0s after the alert began to fire"},
		{name: "idle", before: alert("idle", ago(time.Second)), end: about("idle")},
		{name: "not idle", before: alert("idle", ago(time.Second)), end: about("idle"), change: func(e *end) { e.LastData = ago(900 * time.Millisecond) }, want: "idle for 900ms"},
		{name: "paused", before: alert("plain", ago(time.Minute)), end: about("plain"), setting: func(j *judge) {
			j.pauses = []span{{from: ago(3 * time.Second)}}
		}, want: "paused for 3s"},
		{name: "paused just now", before: alert("plain", ago(time.Minute)), end: about("plain"), setting: func(j *judge) {
			j.pauses = []span{{from: ago(noticedWithin / 2)}}
		}},
		{name: "paused while the application had no processor time", before: alert("plain", ago(time.Minute)), end: about("plain"), setting: func(j *judge) {
			j.pauses = []span{{from: ago(3 * time.Second)}}
		}, change: func(e *end) { e.Late = 3 * time.Second }},
		{name: "paused before", before: alert("plain", ago(time.Minute)), end: about("plain"), setting: func(j *judge) {
			j.pauses = []span{{from: ago(3 * time.Second), to: ago(time.Second)}}
		}},
		{name: "a former address", before: alert("failover", ago(time.Second)), end: about("failover"), setting: func(j *judge) {
			j.left[service] = ago(settle + time.Second)
		}},
		{name: "the address of the service", before: alert("failover", ago(time.Second)), end: about("failover"), want: "the service was there"},
		{name: "an address that the service has just left", before: alert("failover", ago(time.Second)), end: about("failover"), setting: func(j *judge) {
			j.left[service] = ago(settle / 2)
		}, want: "the service was there"},
		{name: "an address that the service is back at", before: alert("failover", ago(time.Second)), end: about("failover"), setting: func(j *judge) {
			j.left[service], j.back[service] = ago(time.Minute), ago(lookedUp+late+time.Second)
		}, want: "the service was there"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := newJudge()
			tt.before(j)
			if tt.setting != nil {
				tt.setting(j)
			}
			e := tt.end
			if tt.change != nil {
				tt.change(&e)
			}
			if got := j.unasked(&destinations[e.Destination], &e); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			j.hear(0, message{End: &e})
			if (j.wrong == 1) != (tt.want != "") || j.failures != j.wrong || j.hungUp != 1 {
				t.Errorf("%d wrong of %d, %d broken promises", j.wrong, j.hungUp, j.failures)
			}
		})
	}
}

// The end of a bystander's connection is a broken promise, whoever asked for it.
func TestJudgeBystander(t *testing.T) {
	j := newJudge()
	index := slices.IndexFunc(destinations, func(d destination) bool { return !d.victim() })
	j.begin(index, time.Now().Add(-time.Minute))
	j.hear(0, message{End: &end{Destination: index, Opened: time.Now(), Noticed: time.Now(), How: "EOF"}})
	if j.bystanders != 1 || j.failures != 1 || j.hungUp != 0 {
		t.Errorf("%d bystanders, %d broken promises, %d hung up", j.bystanders, j.failures, j.hungUp)
	}
}
