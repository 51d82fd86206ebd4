package main

import (
	"reflect"
	"testing"
)

// Lines of ss -HOatnip, shortened.
func TestParseFlow(t *testing.T) {
	for line, want := range map[string]flow{
		`ESTAB 0 115 10.50.240.19:37424 10.99.0.1:80 users:(("haproxy",pid=7,fd=14),("haproxy",pid=8,fd=14)) cubic bytes_sent:300 bytes_acked:185 bytes_received:42`: {
			state: "ESTAB", peer: serverAddress, port: 37424, queue: 115, sent: 300, acked: 185, received: 42, pids: []int{7, 8},
		},
		`TIME-WAIT 0 0 [::ffff:10.50.240.11]:34178 [::ffff:10.99.0.2]:80`: {state: "TIME-WAIT", peer: newSite, port: 34178},
	} {
		if got, err := parseFlow(line); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", line, got, err, want)
		}
	}
	for _, line := range []string{"", "ESTAB 0 0 10.50.240.19:37424", "ESTAB 0 0 10.50.240.19:x 10.99.0.1:80", "ESTAB 0 ? 10.50.240.19:1 10.99.0.1:80"} {
		if f, err := parseFlow(line); err == nil {
			t.Errorf("%q: got %+v, want an error", line, f)
		}
	}
}
