package main

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// The failovers have the delays of the shipped configuration of Alertmanager.
func TestDelays(t *testing.T) {
	shipped, err := os.ReadFile(shippedAlertmanager)
	if err != nil {
		t.Fatal(err)
	}
	used, err := alertmanagerConfiguration(string(shipped), []string{"192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	delays := regexp.MustCompile(`(group_wait|group_interval|repeat_interval): \w+`)
	want, got := delays.FindAllString(string(shipped), -1), delays.FindAllString(used, -1)
	if len(want) != 3 || !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := alertmanagerConfiguration("group_wait: 5s\n", nil); err == nil {
		t.Error("a configuration without intervals is accepted")
	}
}
