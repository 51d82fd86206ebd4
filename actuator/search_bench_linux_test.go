package actuator

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/testapp"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// BenchmarkOwners measures the search for the owner of one flow beside other processes of the
// same user, by steps: listing the processes, ranking them, and reading descriptors. After the
// owner is found, only processes that SIGPIPE would kill are read.
func BenchmarkOwners(b *testing.B) {
	binary := testapp.Build(b)
	for _, bb := range []struct {
		name        string
		processes   int
		descriptors int // of each process
		ignore      bool
	}{
		{name: "small", processes: 2000, descriptors: 10},
		{name: "handle", processes: 10, descriptors: 19_000, ignore: true},
		{name: "killed", processes: 10, descriptors: 19_000},
		{name: "one-killed", processes: 1, descriptors: 19_000},
	} {
		b.Run(fmt.Sprintf("%s/processes=%d/descriptors=%d", bb.name, bb.processes, bb.descriptors), func(b *testing.B) {
			for range bb.processes {
				app := testapp.Start(b, binary)
				if bb.ignore {
					app.Call("ignore")
				}
				if got := app.Call("sockets %d", bb.descriptors); got != "sockets ok" {
					b.Fatalf("application: %s", got)
				}
			}
			owner := testapp.Start(b, binary)
			owner.Call("ignore")
			fd, _ := owner.Listen(netip.IPv4Unspecified().String())
			link, err := os.Readlink("/proc/" + strconv.Itoa(owner.PID()) + "/fd/" + strconv.Itoa(fd))
			if err != nil {
				b.Fatal(err)
			}
			flows := []sockdiag.Flow{{Inode: parseSocketLink([]byte(link))}}
			var list, ranking, scan []time.Duration
			for b.Loop() {
				begun := time.Now()
				proc, pids, err := openProcesses()
				if err != nil {
					b.Fatal(err)
				}
				listed := time.Now()
				processes, _ := rank(proc, pids, flows, nearLimit, nil)
				ranked := time.Now()
				found, err := scanProcesses(b.Context(), proc, processes, inodesOf(flows), false)
				list, ranking, scan = append(list, listed.Sub(begun)), append(ranking, ranked.Sub(listed)), append(scan, time.Since(ranked))
				if err != nil || len(found.byInode) != 1 || found.unsearched != 0 {
					b.Fatalf("found %+v, %v", found, err)
				}
				_ = unix.Close(proc)
			}
			for unit, took := range map[string][]time.Duration{"list-ms": list, "rank-ms": ranking, "scan-ms": scan} {
				slices.Sort(took)
				b.ReportMetric(took[len(took)/2].Seconds()*1e3, unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkDescriptor measures ways to find a socket among the descriptors of another process.
// A scan lists them by getdents64(2) and reads each by readlinkat(2).
func BenchmarkDescriptor(b *testing.B) {
	const descriptors = 10_000
	app := testapp.Start(b, testapp.Build(b))
	if got := app.Call("sockets %d", descriptors); got != "sockets ok" {
		b.Fatalf("application: %s", got)
	}
	proc, err := openProc()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Close(proc) })
	pidfd, err := unix.PidfdOpen(app.PID(), 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Close(pidfd) })
	own, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Close(own) })
	// list calls fn for each descriptor from the given one.
	list := func(from, end int, fn func(dir int, name []byte) error) error {
		path := fmt.Appendf(nil, "%d/fd\x00", app.PID())
		dir, err := openDirectory(proc, &path[0])
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		const dots = 2 // entries before that of descriptor 0
		if _, err := unix.Seek(dir, int64(from+dots), unix.SEEK_SET); err != nil {
			return err
		}
		for name, err := range numericNames(dir, make([]byte, 8<<10)) {
			if err != nil {
				return err
			}
			if atoi(name) >= end {
				break
			}
			if err := fn(dir, name); err != nil {
				return err
			}
		}
		return nil
	}
	read := func() func(int, []byte) error {
		w := worker{search: newSearch(proc, nil)}
		return func(dir int, name []byte) error {
			_, err := w.socketInode(dir, name)
			return err
		}
	}
	each := func(fn func(fd int) error) func() error {
		return func() error {
			for fd := range descriptors {
				if err := fn(fd); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, bb := range []struct {
		name string
		scan func() error
	}{
		{"getdents", func() error { return list(0, descriptors, func(int, []byte) error { return nil }) }},
		{"getdents+readlinkat", func() error { return list(0, descriptors, read()) }},
		{"getdents+readlinkat/two-readers", func() error {
			other := make(chan error)
			go func() { other <- list(descriptors/2, descriptors, read()) }()
			return errors.Join(list(0, descriptors/2, read()), <-other)
		}},
		{"getdents+fstatat", func() error {
			var st unix.Stat_t
			return list(0, descriptors, func(dir int, name []byte) error { return unix.Fstatat(dir, string(name), &st, 0) })
		}},
		{"kcmp", each(func(fd int) error {
			const file = 0 // KCMP_FILE
			_, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(app.PID()), file, uintptr(own), uintptr(fd), 0)
			if errno != 0 {
				return errno
			}
			return nil
		})},
		{"pidfd_getfd+SO_COOKIE", each(func(fd int) error {
			copied, err := unix.PidfdGetfd(pidfd, fd, 0)
			if err != nil {
				return err
			}
			_, _ = unix.GetsockoptUint64(copied, unix.SOL_SOCKET, unix.SO_COOKIE) // not all are sockets
			return unix.Close(copied)
		})},
	} {
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				if err := bb.scan(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/descriptors, "ns/descriptor")
			b.ReportMetric(0, "ns/op")
		})
	}
}
