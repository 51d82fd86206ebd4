package services

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tcphup/sockdiag"
)

const writer, reader = "writer.internal", "reader.internal"

// sharingTest is a Watcher of two names, whose flows have known first-seen times.
type sharingTest struct {
	*Watcher
	t      *testing.T
	config Config
	dns    *fakeResolver
	seen   map[netip.AddrPort]time.Time // by local address
	stop   func()
}

func newSharingTest(t *testing.T) *sharingTest {
	s := &sharingTest{t: t, dns: new(fakeResolver), seen: make(map[netip.AddrPort]time.Time)}
	s.config = Config{StateDirectory: t.TempDir(), Services: []Service{
		{Name: writer, Port: 5432, Settle: time.Minute}, {Name: reader, Port: 5432, Settle: time.Minute},
		// A name without a port, or with another one, has no flows to this port.
		{Name: "allowed.only"}, {Name: "other.port", Port: 80},
	}}
	s.config.FirstSeen = func(f *sockdiag.Flow) (time.Time, bool) {
		seen, known := s.seen[f.Local]
		return seen, known
	}
	return s
}

// resolve sets the addresses of the names.
func (s *sharingTest) resolve(writers, readers string) {
	all := map[string][]netip.Addr{
		writer: addrs(s.t, writers), reader: addrs(s.t, readers),
		"allowed.only": addrs(s.t, "10.0.0.1 10.0.0.2"), "other.port": addrs(s.t, "10.0.0.1 10.0.0.2"),
	}
	s.dns.set(func(name string) ([]netip.Addr, error) { return all[name], nil })
}

func (s *sharingTest) start() {
	s.t.Helper()
	s.Watcher, s.stop = run(s.t, s.config, func(ctx context.Context, service Service, f family) ([]netip.Addr, error) {
		if service.Name == "late.internal" {
			time.Sleep(time.Second)
		}
		return s.dns.lookup(ctx, service, f)
	})
}

// open returns a flow that a scan sees for the first time now.
func (s *sharingTest) open(local, to string) sockdiag.Flow {
	f := flow(to+":5432", sockdiag.Established, 0)
	f.Local = netip.MustParseAddrPort("10.0.0.100:" + local)
	s.seen[f.Local] = time.Now()
	return f
}

// scan passes the flows in one scan and checks by which name each is stale: "w", "r", "wr"
// or "" for each flow. An upper case letter is a name that has lost the address to the other
// one before the flow was opened. The choice for hang-ups agrees with the metric.
func (s *sharingTest) scan(want string, flows ...sockdiag.Flow) {
	s.t.Helper()
	var got []string
	for i := range flows {
		word := ""
		series := gather(s.t, s.Watcher, flows[i])
		for _, name := range []string{writer, reader} {
			stale := series[`tcphup_service_sockets{address="former",service="`+name+`"}`] == 1
			if stale {
				word += name[:1]
			}
			if got := s.Stale(name, &flows[i]); got != stale {
				s.t.Errorf("flow %d of %s: stale is %t, by the metric %t", i, name, got, stale)
			}
			if s.Other(name, &flows[i]) {
				word += strings.ToUpper(name[:1])
			}
			owner, former := s.ownerOf(name, &flows[i])
			if got, want := s.shared(name), toInt(former && owner == unknown); got != want {
				s.t.Errorf("flow %d of %s: %d shared sockets in the status, want %d", i, name, got, want)
			}
		}
		got = append(got, word+".")
	}
	if text := strings.Join(got, ""); text != want {
		s.t.Errorf("stale by name: %q, want %q", text, want)
	}
}

// shared returns the sockets of the last scan that may belong to another service.
func (s *sharingTest) shared(name string) (sockets int) {
	for _, status := range s.Status() {
		for _, a := range slices.Concat(status.Current, status.Former) {
			if status.Name == name {
				sockets += a.Shared
			}
		}
	}
	return sockets
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// After a swap, the flows first seen before it are stale. The others may have been opened
// under the name that has the address now.
func TestSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharingTest(t)
		s.resolve("10.0.0.1", "10.0.0.2")
		s.start()
		defer func() { s.stop() }()
		time.Sleep(time.Hour)
		oldWriter, oldReader := s.open("1", "10.0.0.1"), s.open("2", "10.0.0.2")
		time.Sleep(time.Minute)
		s.resolve("10.0.0.2", "10.0.0.1")
		atSwap := s.open("3", "10.0.0.1") // after the last response with the old addresses
		unknown := s.open("4", "10.0.0.1")
		delete(s.seen, unknown.Local)
		time.Sleep(2 * time.Minute)
		newReader, newWriter := s.open("5", "10.0.0.1"), s.open("6", "10.0.0.2")
		all := []sockdiag.Flow{oldWriter, oldReader, atSwap, unknown, newReader, newWriter}
		const want = "w.r....."
		for range 5 {
			s.scan(want, all...)
			time.Sleep(time.Minute)
		}
		late := []sockdiag.Flow{s.open("7", "10.0.0.1"), s.open("8", "10.0.0.2")}
		s.scan("W.R.", late...)
		// The attribution survives a restart.
		s.stop()
		time.Sleep(time.Hour)
		s.start()
		time.Sleep(time.Minute)
		s.scan(want, all...)
	})
}

// A swap while the Watcher does not run.
func TestSwapMeanwhile(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*stateJSON)
		want string
	}{
		"restart":      {func(*stateJSON) {}, "w.r.."},
		"another boot": {func(s *stateJSON) { s.Clock = "another" }, "..."},
		"times ahead of the clock": {func(s *stateJSON) {
			for i := range s.Services {
				s.Services[i].Asked = [...]time.Duration{never, never}
				for j := range s.Services[i].Addresses {
					s.Services[i].Addresses[j].Had, s.Services[i].Addresses[j].Without = never, never
				}
			}
		}, "..."},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSharingTest(t)
				s.resolve("10.0.0.1", "10.0.0.2")
				s.start()
				time.Sleep(time.Hour)
				oldWriter, oldReader := s.open("1", "10.0.0.1"), s.open("2", "10.0.0.2")
				time.Sleep(time.Minute)
				s.stop()
				state, err := s.state.read()
				if err != nil {
					t.Fatal(err)
				}
				tt.edit(&state)
				if err := s.state.write(state); err != nil {
					t.Fatal(err)
				}
				s.resolve("10.0.0.2", "10.0.0.1")
				during := s.open("3", "10.0.0.1")
				time.Sleep(time.Hour)
				s.start()
				defer s.stop()
				time.Sleep(2 * time.Minute)
				s.scan(tt.want, oldWriter, oldReader, during)
			})
		})
	}
}

// After a swap back, flows first seen before or during the first swap may be those of the
// name that has the address again.
func TestSwapBack(t *testing.T) {
	for name, restart := range map[string]bool{"running": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSharingTest(t)
				s.resolve("10.0.0.1", "10.0.0.2")
				s.start()
				defer func() { s.stop() }()
				time.Sleep(time.Hour)
				first := s.open("1", "10.0.0.1") // of the writer; nothing hangs it up
				time.Sleep(time.Minute)
				s.resolve("10.0.0.2", "10.0.0.1")
				time.Sleep(2 * time.Minute)
				between := s.open("2", "10.0.0.1") // before the first scan after the swap
				s.scan("w..", first, between)
				time.Sleep(time.Minute)
				second := s.open("3", "10.0.0.1") // of the reader
				time.Sleep(time.Minute)
				s.resolve("10.0.0.1", "10.0.0.2")
				time.Sleep(2 * time.Minute)
				if restart {
					s.stop()
					s.start()
					time.Sleep(2 * time.Minute)
					s.scan("...", first, between, second) // the scan after the swap is unknown
					return
				}
				s.scan("..r.", first, between, second)
			})
		})
	}
}

// A flow to an address that the other name has had all along is never stale, nor is one
// while the other name changes, is in rotation or was not looked up yet.
func TestSharedAllAlong(t *testing.T) {
	for _, tt := range []struct {
		name                   string
		readersBefore, readers string
		readersSettle          time.Duration
		want                   string
	}{
		{name: "all along", readersBefore: "10.0.0.1 10.0.0.2", readers: "10.0.0.1 10.0.0.2", want: "."},
		{name: "not at all", readersBefore: "10.0.0.2", readers: "10.0.0.2", want: "w."},
		{name: "since the swap", readersBefore: "10.0.0.2", readers: "10.0.0.1 10.0.0.2", want: "w."},
		{name: "changing", readersBefore: "10.0.0.2", readers: "10.0.0.1", readersSettle: time.Hour, want: "."},
		{name: "gone, not former yet", readersBefore: "10.0.0.1", readers: "10.0.0.2", readersSettle: time.Hour, want: "."},
		{name: "gone", readersBefore: "10.0.0.1", readers: "10.0.0.2", want: "wr."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSharingTest(t)
				if tt.readersSettle != 0 {
					s.config.Services[1].Settle = tt.readersSettle
				}
				s.resolve("10.0.0.1", tt.readersBefore)
				s.start()
				defer s.stop()
				time.Sleep(time.Hour)
				f := s.open("1", "10.0.0.1")
				time.Sleep(time.Minute)
				s.resolve("10.0.0.3", tt.readers)
				time.Sleep(3 * time.Minute)
				s.scan(tt.want, f)
			})
		})
	}
}

// A flow opened after its name lost the address, before another name got it, belongs to
// neither.
func TestSharedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharingTest(t)
		s.resolve("10.0.0.1", "10.0.0.2")
		s.start()
		defer s.stop()
		time.Sleep(time.Hour)
		before := s.open("1", "10.0.0.1")
		time.Sleep(time.Minute)
		s.resolve("10.0.0.3", "10.0.0.2")
		time.Sleep(time.Minute)
		between := s.open("2", "10.0.0.1")
		time.Sleep(2 * time.Minute)
		s.scan("w.w.", before, between)
		s.resolve("10.0.0.3", "10.0.0.1")
		time.Sleep(2 * time.Minute)
		s.scan("w..", before, between)
	})
}

// Before the first lookup of the other name ended, no flow is known to be stale.
func TestSharedBeforeFirstLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharingTest(t)
		s.resolve("10.0.0.1", "10.0.0.2")
		s.start()
		defer s.stop()
		time.Sleep(time.Hour)
		f := s.open("1", "10.0.0.1")
		time.Sleep(time.Minute)
		s.resolve("10.0.0.3", "10.0.0.2")
		time.Sleep(2 * time.Minute)
		s.scan("w.", f)
		if err := s.Reload(append(s.config.Services, Service{Name: "late.internal", Port: 5432})); err != nil {
			t.Fatal(err)
		}
		s.scan(".", f)
		time.Sleep(time.Minute)
		s.scan("w.", f) // the lookup has failed
	})
}

// While an address of the other name is missing, it may be in rotation.
func TestSharedMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharingTest(t)
		s.resolve("10.0.0.1", "10.0.0.2")
		s.start()
		defer s.stop()
		time.Sleep(time.Hour)
		f := s.open("1", "10.0.0.1")
		time.Sleep(time.Minute)
		s.resolve("10.0.0.3", "10.0.0.1 10.0.0.2")
		time.Sleep(3 * time.Minute)
		s.scan("w.", f)
		s.resolve("10.0.0.3", "10.0.0.1")
		time.Sleep(30 * time.Second)
		s.scan(".", f)
		s.resolve("10.0.0.3", "10.0.0.1 10.0.0.2")
		time.Sleep(30 * time.Second)
		s.scan("w.", f)
	})
}

// While the other name rotates, responses without an address prove nothing.
func TestSharedInRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharingTest(t)
		pool := addrs(t, "10.0.0.2 10.0.0.4")
		writers := addrs(t, "10.0.0.1")
		answer := func(name string) ([]netip.Addr, error) {
			if name == writer {
				return writers, nil
			}
			return pool[rand.IntN(len(pool)):][:1], nil
		}
		s.dns.set(answer)
		s.start()
		defer s.stop()
		time.Sleep(time.Hour)
		f := s.open("1", "10.0.0.1")
		time.Sleep(time.Minute)
		s.dns.mu.Lock()
		pool, writers = addrs(t, "10.0.0.1 10.0.0.2 10.0.0.4"), addrs(t, "10.0.0.3")
		s.dns.mu.Unlock()
		for range 20 {
			time.Sleep(time.Minute)
			s.scan(".", f)
		}
		if _, former := s.Addresses(writer); texts(former) != "10.0.0.1" {
			t.Errorf("former addresses of the writer: %s", texts(former))
		}
	})
}
