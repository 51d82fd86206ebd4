package hangup

import (
	"strings"
	"testing"
)

func TestOwnerFilter(t *testing.T) {
	p := Process{PID: 42, Command: "java", UID: 1000, Cgroups: []string{"/system.slice/app.service/worker", "/"}}
	tests := []struct {
		name   string
		filter OwnerFilter
		want   bool
	}{
		{"zero", OwnerFilter{}, true},
		{"pid", OwnerFilter{PIDs: []int{7, 42}}, true},
		{"other pid", OwnerFilter{PIDs: []int{4}}, false},
		{"command", OwnerFilter{Commands: []string{"java"}}, true},
		{"part of the command", OwnerFilter{Commands: []string{"jav"}}, false},
		{"user", OwnerFilter{UIDs: []uint32{0, 1000}}, true},
		{"other user", OwnerFilter{UIDs: []uint32{0}}, false},
		{"cgroup", OwnerFilter{Cgroups: []string{"/system.slice/app.service/worker"}}, true},
		{"parent of the cgroup", OwnerFilter{Cgroups: []string{"/other", "/system.slice"}}, true},
		{"part of a name in the path", OwnerFilter{Cgroups: []string{"/system.slice/app"}}, false},
		{"child of the cgroup", OwnerFilter{Cgroups: []string{"/system.slice/app.service/worker/1"}}, false},
		{"all fields", OwnerFilter{[]int{42}, []string{"java"}, []uint32{1000}, []string{"/system.slice"}}, true},
		{"one field differs", OwnerFilter{[]int{42}, []string{"java"}, []uint32{1001}, []string{"/system.slice"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.filter.Matches(&p); got != tt.want {
				t.Errorf("matches: %t, want %t", got, tt.want)
			}
		})
	}
}

func TestParseCgroup(t *testing.T) {
	for _, tt := range []struct{ text, want, fails string }{
		{text: "/system.slice/app.service", want: "/system.slice/app.service"},
		{text: "/kubepods/", want: "/kubepods"},
		{text: "", fails: "every process"},
		{text: "/", fails: "every process"},
		{text: "//", fails: "not the path"},
		{text: "/..", fails: "not the path"},
		{text: "/a/./b", fails: "not the path"},
		{text: "system.slice", fails: "not the path"},
		{text: "/sys/fs/cgroup", fails: "is a directory"},
		{text: "/sys/fs/cgroup/system.slice", fails: "is a directory"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			got, err := ParseCgroup(tt.text)
			if got != tt.want || (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("got %q, %v; want %q, error %q", got, err, tt.want, tt.fails)
			}
		})
	}
}
