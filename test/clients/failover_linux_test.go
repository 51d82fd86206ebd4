package main

import (
	"slices"
	"testing"
)

func TestFailoverText(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    result
		want string
	}{
		{"served", result{failover: failover, recovered: true, hangups: 1, errors: []string{"reset"}}, "served after 1 hang-up"},
		{"without a hang-up", result{failover: failover, recovered: true}, "served"},
		{"not served", result{failover: failover, hangups: 2}, "not served after 2 hang-ups"},
		{"demoted", result{failover: demoted, recovered: true, hangups: 3, errors: []string{"reset"}}, "served after 3 hang-ups; 1 error"},
		{"old site", result{failover: demoted, stays: true}, "still on the old site; 0 errors"},
		{"old site in spite of hang-ups", result{failover: demoted, stays: true, hangups: 6}, "still on the old site after 6 hang-ups; 0 errors"},
		{"neither site", result{failover: demoted, errors: []string{"refused", "refused"}}, "not served; 2 errors"},
	} {
		if got := tt.r.text(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A client has moved if an established connection leads to the new site and none to the old one.
func TestMoved(t *testing.T) {
	old, next := flow{state: "ESTAB", peer: serverAddress}, flow{state: "ESTAB", peer: newSite}
	ended := flow{state: "TIME-WAIT", peer: serverAddress}
	for _, tt := range []struct {
		name         string
		flows        []flow
		stays, moved bool
	}{
		{"old", []flow{old}, true, false},
		{"both", []flow{next, old}, true, false},
		{"new", []flow{ended, next}, false, true},
		{"none", []flow{ended}, false, false},
	} {
		var r result
		if r.place(tt.flows); r.stays != tt.stays || r.recovered != tt.moved {
			t.Errorf("%s: stays %v, moved %v, want %v, %v", tt.name, r.stays, r.recovered, tt.stays, tt.moved)
		}
	}
}

// Clients with a setting for lookups run in the situation demoted alone.
func TestLookupClients(t *testing.T) {
	for _, name := range lookupClients() {
		i := slices.IndexFunc(clients(), func(c client) bool { return c.name == name })
		if i < 0 {
			t.Errorf("no client %q has a setting for lookups", name)
			continue
		}
		for _, s := range situations() {
			if c := clients()[i]; c.has(s.operation) != (s.operation == demoted) {
				t.Errorf("%s, %s: got %v", name, s.name, c.has(s.operation))
			}
		}
	}
}
