package services

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tcphup/sockdiag"
)

// The status has the sockets of each address in the last scan and the time since it is
// former, which survives a restart.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := oneService(time.Minute)
		c.StateDirectory = t.TempDir()
		c.Services = append(c.Services, Service{Name: "allowed.only"})
		dns := &fakeResolver{answer: fixedAnswer(t, "10.0.0.1 fd00::1")}
		idle, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if got := idle.Status(); len(got) != 2 || got[1].Name != "db.internal" || !got[1].Looked.IsZero() {
			t.Errorf("before the first lookup: %+v", got)
		}
		w, stop := run(t, c, dns.lookup)
		time.Sleep(time.Minute)
		dns.set(fixedAnswer(t, "10.0.0.2"))
		var since time.Time
		for range 600 {
			time.Sleep(time.Second)
			if former := w.Status()[1].Former; len(former) > 0 {
				since = former[0].Since
				break
			}
		}
		if since.IsZero() {
			t.Fatal("no former address with a time")
		}
		flows := []sockdiag.Flow{
			flow("10.0.0.1:5432", sockdiag.Established, 5*time.Second),
			flow("10.0.0.1:5432", sockdiag.CloseWait, 7*time.Second),
			flow("10.0.0.2:5432", sockdiag.Established, 0),
		}
		gather(t, w, flows...)
		refused := errors.New("connection refused")
		dns.set(func(string) ([]netip.Addr, error) { return nil, refused })
		time.Sleep(time.Minute)

		status := func(w *Watcher) Status { return w.Status()[1] }
		want := Status{
			Name: "db.internal", Port: 5432,
			Current: []Address{{Addr: addrs(t, "10.0.0.2")[0], Sockets: 1}},
			Former:  []Address{{Addr: addrs(t, "10.0.0.1")[0], Since: since, Sockets: 2}, {Addr: addrs(t, "fd00::1")[0], Since: since}},
			Err:     refused,
		}
		got := status(w)
		equal := cmp.Options{cmpopts.EquateComparable(Address{}.Addr, Status{}.Resolver), cmpopts.EquateErrors(), cmpopts.IgnoreFields(Status{}, "Looked")}
		if diff := cmp.Diff(want, got, equal); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if ago := time.Since(got.Looked); ago > DefaultInterval*3/2 {
			t.Errorf("the last lookup was %s ago", ago)
		}
		if since.After(time.Now().Add(-time.Minute)) {
			t.Errorf("former since %s, it is %s", since, time.Now())
		}
		// The counts of the next scan replace the old ones.
		gather(t, w)
		if got := status(w); got.Current[0].Sockets+got.Former[0].Sockets != 0 {
			t.Errorf("without flows: %+v", got)
		}

		stop()
		again, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		gather(t, again, flows...)
		want.Err = nil
		if diff := cmp.Diff(want, status(again), equal); diff != "" {
			t.Errorf("after a restart (-want +got):\n%s", diff)
		}

		// A returned address is current again.
		dns.set(fixedAnswer(t, "10.0.0.1 10.0.0.2 fd00::1"))
		again = start(t, c, dns.lookup)
		time.Sleep(time.Second)
		got = status(again)
		for _, a := range got.Current {
			if !a.Since.IsZero() {
				t.Errorf("%s is current, and former since %s", a.Addr, a.Since)
			}
		}
		if len(got.Current) != 3 || got.Former != nil {
			t.Errorf("after the addresses returned: %+v", got)
		}
	})
}
