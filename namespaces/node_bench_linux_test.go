package namespaces

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// BenchmarkNode measures the steps of a scrape on a node with 110 pods and 2,300 processes: 20
// in each pod, and 100 in the namespace of the node. Of these, half are of hostNetwork pods.
func BenchmarkNode(b *testing.B) {
	node := pods.NewNode(b, testapp.Build(b))
	fork := func(p *pods.Pod, n int) {
		for i := range n {
			var pid int
			if _, err := fmt.Sscanf(p.Apps[0].Call("fork"), "fork ok %d", &pid); err != nil {
				b.Fatal(err)
			}
			if i < maxOrigins {
				p.Adopt(pid)
			}
		}
	}
	for range 110 {
		fork(node.Start(pods.Spec{}), 19)
	}
	for range 10 {
		fork(node.Start(pods.Spec{HostNetwork: true}), 9)
	}
	n := nodeOf(node)
	found, err := n.Discover()
	if err != nil || len(found.Namespaces) != 110 || found.HostNetwork != 10 {
		b.Fatalf("%v, %+v", err, found.counts())
	}
	boot := time.Now()
	processes, err := find()
	if err != nil {
		b.Fatal(err)
	}
	own := &processes.Namespaces[0]
	steps := []struct {
		name string
		run  func() error
	}{
		{"Discover", func() error { _, err := n.Discover(); return err }},
		{"processes", func() error { _, err := find(); return err }},
		{"names", func() error { _, err := ReadPods(node.Logs); return err }},
		{"Discover first", func() error { _, err := nodeOf(node).Discover(); return err }},
		{"pods", func() error {
			for i := range processes.Namespaces[1:] {
				if _, ok := n.podOf(&processes.Namespaces[1+i], boot); !ok {
					return fmt.Errorf("%v has no pod", &processes.Namespaces[1+i])
				}
			}
			return nil
		}},
		{"host network", func() error {
			if n := len(n.podsOf(own, boot, maxNodeProcesses)); n != 10 {
				return fmt.Errorf("%d pods", n)
			}
			return nil
		}},
		{"enter", func() error {
			for i := range found.Namespaces {
				if err := found.Namespaces[i].Do(func() error { return nil }); err != nil {
					return err
				}
			}
			return nil
		}},
	}
	for _, step := range steps {
		b.Run(step.name, func(b *testing.B) {
			n.processes.former = n.processes.current
			b.ReportAllocs()
			var before, after unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := step.run(); err != nil {
					b.Fatal(err)
				}
			}
			if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
				b.Fatal(err)
			}
			used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(used)/float64(b.N)/1e6, "cpu-ms/op")
		})
	}
}
