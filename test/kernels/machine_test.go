package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseConsole(t *testing.T) {
	const start = "firmware\r\n@kernel 6.1.0 #1 SMP\r\n"
	for name, tt := range map[string]struct {
		console string
		want    map[string]string
		fails   string
	}{
		"cells": {
			start + "@begin situations\r\n=== RUN   TestSituations\r\n        @cell idle, IPv6: closed; peer: EOF\r\n@end situations: ok\r\n@done\r\n",
			map[string]string{"idle, IPv6": "closed; peer: EOF", "situations": "passed"}, "",
		},
		"tests failed": {
			start + "@begin a\n=== RUN   TestA\n        --- FAIL: TestInner\n--- FAIL: TestA (0.1s)\n--- PASS: TestB (0.1s)\n@end tests of a: exit status 1\n@begin b\n@end tests of b: ok\n@done\n",
			map[string]string{"tests of a": "failed: TestA", "tests of b": "passed"}, "",
		},
		"time over": {
			start + "@begin a\n@end tests of a: not finished after 1s\n@done\n",
			map[string]string{"tests of a": "failed: not finished after 1s"}, "",
		},
		"tests skipped": {
			start + "@begin a\n=== RUN   TestA\n    x.go:1: kernel without MPTCP (why)\n--- SKIP: TestA (0.1s)\n=== RUN   TestB\n--- SKIP: TestB (0.1s)\n@end tests of a: ok\n@done\n",
			map[string]string{"tests of a": "passed without MPTCP; skipped: TestB"}, "",
		},
		"a subtest skipped": {
			start + "@begin a\n=== RUN   TestA\n=== RUN   TestA/mptcp\n    x.go:1: kernel without MPTCP (why)\n    --- SKIP: TestA/mptcp (0.1s)\n--- PASS: TestA (0.1s)\n@end tests of a: ok\n@done\n",
			map[string]string{"tests of a": "passed"}, "",
		},
		"init failed": {start + "@failed mount /sys: no such device\n", map[string]string{}, "init: mount /sys: no such device"},
		"panic":       {start + "@begin a\nKernel panic\n", map[string]string{}, "ended before its last step"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseConsole(strings.NewReader(tt.console))
			if got == nil || (err == nil) != (tt.fails == "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if got.kernel != "6.1.0 #1 SMP" {
				t.Errorf("kernel is %q", got.kernel)
			}
			if diff := cmp.Diff(tt.want, got.cells); diff != "" {
				t.Errorf("cells (-want +got):\n%s", diff)
			}
		})
	}
}

// A machine that does not end in time is stopped.
func TestBootLimit(t *testing.T) {
	var log bytes.Buffer
	_, err := boot(t.Context(), []string{"sh", "-c", "echo @kernel x; exec sleep 600"}, 100*time.Millisecond, &log)
	if err == nil || !strings.Contains(err.Error(), "not finished after 100ms") {
		t.Errorf("error is %v", err)
	}
	r, err := boot(t.Context(), []string{"echo", "@kernel x\n@done"}, time.Minute, &log)
	if err != nil || r.kernel != "x" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// Modules are added with their dependencies, and without those that the kernel lacks.
func TestClosure(t *testing.T) {
	files, index := closure("kernel/a/one.ko.xz: kernel/b/two-x.ko.xz kernel/b/three.ko.xz\nkernel/b/two-x.ko.xz: kernel/b/three.ko.xz\nkernel/b/three.ko.xz:\nkernel/four.ko.zst:\n",
		[]string{"missing", "one", "two_x"})
	if diff := cmp.Diff([]string{"kernel/a/one.ko.xz", "kernel/b/two-x.ko.xz", "kernel/b/three.ko.xz"}, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	want := "kernel/a/one.ko: kernel/b/two-x.ko kernel/b/three.ko\nkernel/b/two-x.ko: kernel/b/three.ko\nkernel/b/three.ko:\n"
	if diff := cmp.Diff(want, index); diff != "" {
		t.Errorf("index (-want +got):\n%s", diff)
	}
}

// The archive has a directory before its files, each name once, and records at multiples of 4.
func TestArchive(t *testing.T) {
	a := newArchive()
	a.text("etc/x/hosts", "localhost\n")
	a.text("etc/x/hosts", "again")
	a.symlink("bin/sh", "dash")
	a.device("dev/null", 1, 3)
	text := a.bytes()
	var names []string
	for len(text) > 0 {
		var fields [13]int
		for i := range fields {
			if _, err := fmt.Sscanf(string(text[6+8*i:14+8*i]), "%x", &fields[i]); err != nil {
				t.Fatal(err)
			}
		}
		size, nameSize := fields[6], fields[11]
		if magic := string(text[:6]); magic != "070701" {
			t.Fatalf("magic is %q after %v", magic, names)
		}
		names = append(names, string(text[110:110+nameSize-1]))
		body := (110 + nameSize + 3) &^ 3
		if name := names[len(names)-1]; name == "etc/x/hosts" && string(text[body:body+size]) != "localhost\n" {
			t.Errorf("%s is %q", name, text[body:body+size])
		} else if name == "dev/null" && (fields[9] != 1 || fields[10] != 3) {
			t.Errorf("%s is device %d:%d", name, fields[9], fields[10])
		}
		text = text[(body+size+3)&^3:]
	}
	want := []string{"etc", "etc/x", "etc/x/hosts", "bin", "bin/sh", "dev", "dev/null", "TRAILER!!!"}
	if !slices.Equal(names, want) {
		t.Errorf("names are %v, want %v", names, want)
	}
}

func TestChoose(t *testing.T) {
	all, err := choose(options{})
	if err != nil || len(all) != len(kernels()) {
		t.Errorf("got %v, %v", all, err)
	}
	some, err := choose(options{only: "6.12 arm64,5.10"})
	if err != nil || len(some) != 2 || some[0].arch != "arm64" || some[1].suite != "bullseye" {
		t.Errorf("got %v, %v", some, err)
	}
	if _, err := choose(options{only: "4.19"}); err == nil {
		t.Error("an unknown kernel is accepted")
	}
}

// A directory is complete, or it is filled anew.
func TestOnce(t *testing.T) {
	dir := t.TempDir() + "/packages"
	fills := 0
	fill := func(err error) func(string) error {
		return func(temporary string) error {
			fills++
			if entries, err := os.ReadDir(temporary); err != nil || len(entries) > 0 {
				t.Errorf("%v, %v", entries, err)
			}
			if err := os.WriteFile(temporary+"/file", nil, 0o644); err != nil {
				t.Error(err)
			}
			return err
		}
	}
	if err := once(dir, fill(os.ErrDeadlineExceeded)); err == nil {
		t.Error("the error is lost")
	}
	for range 2 {
		if err := once(dir, fill(nil)); err != nil {
			t.Error(err)
		}
	}
	if fills != 2 {
		t.Errorf("filled %d times, want 2", fills)
	}
}
