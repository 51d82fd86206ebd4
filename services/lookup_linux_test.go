package services

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"tcphup/test/kit/nstest"
)

// Results of the system's resolver for names in /etc/hosts and DNS, per family.
func TestPrivilegedLookup(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		srv := map[string][]dnsmessage.SRVResource{
			"_pg._tcp.internal": {
				{Port: 5432, Target: dnsmessage.MustNewName("four.internal.")},
				{Port: 5432, Target: dnsmessage.MustNewName("db.internal.")},
				{Port: 5432, Target: dnsmessage.MustNewName("gone.internal.")},
				{Port: 6432, Target: dnsmessage.MustNewName("half.internal.")},
			},
			"_none._tcp.internal": {{Target: dnsmessage.MustNewName(".")}},
			"_broken._tcp.internal": {
				{Port: 1, Target: dnsmessage.MustNewName("four.internal.")},
				{Port: 1, Target: dnsmessage.MustNewName("servfail.internal.")},
			},
		}
		known := zone(map[string]string{
			"db.internal": "10.0.0.1 fd00::1", "four.internal": "10.0.0.4", "six.internal": "fd00::6",
			"mapped.internal": "::ffff:10.0.0.5", "useless.internal": "0.0.0.0 ::", "linklocal.internal": "169.254.1.1 fe80::1",
			"short.two.internal": "10.0.0.6", "half.internal": "10.0.0.7", "big.internal": "10.0.0.8", "empty.internal": "",
			"refused.two.internal": "10.0.0.66 fd00::66", "notimp.two.internal": "10.0.0.66 fd00::66",
			"referral.two.internal": "10.0.0.66 fd00::66", "servfail.two.internal": "10.0.0.66 fd00::66",
			"streamed.two.internal": "10.0.0.66 fd00::66", "halfrefused.one.internal": "10.0.0.9",
		})
		serveDNS(t, `10.1.0.1 hosted.internal Hosted # a comment
fd01::1 hosted.internal
nonsense
fe80::1%lo linked
0.0.0.0 zero.internal
`, "search one.internal two.internal\noptions timeout:1 attempts:1\n", func(name string, kind dnsmessage.Type, tcp bool) reply {
			r := known(name, kind, tcp)
			switch first, _, _ := strings.Cut(name, "."); {
			case strings.HasSuffix(name, "two.internal"):
			case kind == dnsmessage.TypeSRV:
				r = reply{code: dnsmessage.RCodeNameError}
				for _, s := range srv[name] {
					r.code, r.records = dnsmessage.RCodeSuccess, append(r.records, &s)
				}
			case first == "servfail", first == "half" && kind == dnsmessage.TypeAAAA:
				return reply{code: dnsmessage.RCodeServerFailure}
			case first == "refused", name == "halfrefused.one.internal" && kind == dnsmessage.TypeAAAA:
				return reply{code: dnsmessage.RCodeRefused}
			case first == "notimp":
				return reply{code: dnsmessage.RCodeNotImplemented}
			case first == "formerr":
				return reply{code: dnsmessage.RCodeFormatError}
			case first == "referral":
				return reply{referral: true}
			case first == "forged":
				return reply{otherName: true, records: records(kind, "10.0.0.66 fd00::66")}
			case first == "silent":
				return reply{dropped: true}
			case first == "streamed" && tcp:
				return reply{code: dnsmessage.RCodeRefused}
			case first == "streamed", first == "big" && !tcp:
				return reply{truncated: true}
			}
			return r
		})
		tests := []struct {
			name  string
			port  uint16
			wants [len(families)]string // addresses, or the reason for the failure
		}{
			{name: "db.internal", wants: [...]string{"10.0.0.1", "fd00::1"}},
			{name: "DB.internal.", wants: [...]string{"10.0.0.1", "fd00::1"}},
			{name: "four.internal", wants: [...]string{"10.0.0.4", "not found"}},
			{name: "six.internal", wants: [...]string{"not found", "fd00::6"}},
			{name: "mapped.internal", wants: [...]string{"not found", "no suitable address"}},
			{name: "short", wants: [...]string{"10.0.0.6", "not found"}},
			{name: "big.internal", wants: [...]string{"10.0.0.8", "not found"}},
			{name: "half.internal", wants: [...]string{"10.0.0.7", "SERVFAIL"}},
			{name: "hosted.internal", wants: [...]string{"10.1.0.1", "fd01::1"}},
			{name: "HOSTED.internal.", wants: [...]string{"10.1.0.1", "fd01::1"}},
			{name: "hosted", wants: [...]string{"10.1.0.1", "not found"}},
			{name: "linked", wants: [...]string{"not found", "unusable address"}},
			{name: "zero.internal", wants: [...]string{"unusable address", "not found"}},
			{name: "useless.internal", wants: [...]string{"unusable address", "unusable address"}},
			{name: "linklocal.internal", wants: [...]string{"169.254.1.1", "unusable address"}},
			{name: "_pg._tcp.internal", port: 5432, wants: [...]string{"10.0.0.1 10.0.0.4", "fd00::1"}},
			{name: "_pg._tcp.internal", port: 6432, wants: [...]string{"10.0.0.7", "SERVFAIL"}},
			{name: "_pg._tcp.internal", port: 1, wants: [...]string{"not found", "not found"}},
			{name: "_none._tcp.internal", wants: [...]string{"not found", "not found"}},
			{name: "_broken._tcp.internal", wants: [...]string{"SERVFAIL", "SERVFAIL"}},
			{name: "gone.internal", wants: [...]string{"not found", "not found"}},
			{name: "empty.internal", wants: [...]string{"not found", "not found"}},
			{name: "silent.internal", wants: [...]string{"timeout", "timeout"}},
			{name: "forged.internal", wants: [...]string{"timeout", "timeout"}},
			{name: "formerr.internal", wants: [...]string{"FORMERR", "FORMERR"}},
			// A failure is not hidden by the next name of the search list.
			{name: "servfail", wants: [...]string{"SERVFAIL", "SERVFAIL"}},
			{name: "refused", wants: [...]string{"REFUSED", "REFUSED"}},
			{name: "notimp", wants: [...]string{"NOTIMP", "NOTIMP"}},
			{name: "referral", wants: [...]string{"exchange", "exchange"}},
			{name: "streamed", wants: [...]string{"REFUSED", "REFUSED"}},
			{name: "halfrefused", wants: [...]string{"10.0.0.9", "REFUSED"}},
		}
		for _, tt := range tests {
			for _, f := range families {
				addrs, err := lookup(t.Context(), Service{Name: tt.name, Port: tt.port}, f)
				got := texts(addrs)
				if err != nil {
					got = reason(err)
				}
				if got != tt.wants[f] {
					t.Errorf("%s port %d %s: %q, want %q; %v", tt.name, tt.port, f, got, tt.wants[f], err)
				}
				if (got == "FORMERR" || got == "NOTIMP") && !strings.Contains(err.Error(), "EDNS") {
					t.Errorf("%s: the error does not mention EDNS: %v", tt.name, err)
				}
			}
		}

		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err := lookup(ctx, Service{Name: "silent.internal"}, ipv4); err == nil || time.Since(begin) > 500*time.Millisecond {
			t.Errorf("canceled lookup: %v after %s", err, time.Since(begin))
		}
		for _, tt := range []struct {
			name, addrs, wantErr string
			err4, err6           bool
		}{
			{name: "four.internal", addrs: "10.0.0.4"},
			{name: "hosted", addrs: "10.1.0.1"},
			{name: "half.internal", addrs: "10.0.0.7", err6: true},
			{name: "gone.internal", wantErr: "A: lookup gone.internal on 127.0.0.1:53: no such host; AAAA: "},
		} {
			found, err := Resolve(t.Context(), Service{Name: tt.name})
			err4, err6 := found.Err(netip.MustParseAddr("10.0.0.1")), found.Err(netip.MustParseAddr("fd00::1"))
			if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) ||
				texts(found.Addrs) != tt.addrs || (err4 != nil) != tt.err4 || (err6 != nil) != tt.err6 {
				t.Errorf("resolve %s: %+v, %v", tt.name, found, err)
			}
		}
	})
}

// With the option use-vc, all queries use TCP, like those of the system's resolver.
func TestPrivilegedUseVC(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		serveDNS(t, "", "options use-vc timeout:1 attempts:1\n", func(_ string, kind dnsmessage.Type, tcp bool) reply {
			return reply{records: records(kind, "10.0.0.1 fd00::1"), dropped: !tcp}
		})
		found, err := Resolve(t.Context(), Service{Name: "db.internal"})
		if err != nil || texts(found.Addrs) != "10.0.0.1 fd00::1" || found.Err(found.Addrs[0]) != nil {
			t.Errorf("%v, %v", found, err)
		}
	})
}

// If a server fails AAAA queries, the old IPv4 address becomes former after settle, and the
// IPv6 address stays current.
func TestPrivilegedFamilyFails(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const settle = 3 * time.Second
		kinds := map[string]reply{
			"refused": {code: dnsmessage.RCodeRefused}, "dropped": {dropped: true}, "notimp": {code: dnsmessage.RCodeNotImplemented},
		}
		c := Config{}
		before, after := make(map[string]string), make(map[string]string)
		for kind := range kinds {
			name := kind + ".one.internal"
			before[name], after[name] = "10.0.0.1 fd00::1", "10.0.0.2"
			c.Services = append(c.Services, Service{Name: name, Port: 5432, Settle: settle, Interval: time.Second},
				// The last query for the short name is "refused.", which does not exist.
				Service{Name: kind, Port: 5432, Settle: settle, Interval: time.Second})
		}
		// The timeout equals lookupTimeout: queries to a server that drops them last as long
		// as possible.
		dns := serveDNS(t, "", "search one.internal two.internal\noptions timeout:10 attempts:1\n", zone(before))
		w := start(t, c, lookup)
		for _, s := range c.Services {
			awaitAddresses(t, w, s.Name, "10.0.0.1 fd00::1", "")
		}
		moved := zone(after)
		dns.set(func(name string, kind dnsmessage.Type, tcp bool) reply {
			first, _, _ := strings.Cut(name, ".")
			if r, ok := kinds[first]; ok && strings.HasSuffix(name, ".one.internal") && kind == dnsmessage.TypeAAAA {
				return r
			}
			return moved(name, kind, tcp)
		})
		begin := time.Now()
		for _, s := range c.Services {
			awaitAddresses(t, w, s.Name, "10.0.0.2 fd00::1", "10.0.0.1")
		}
		took := time.Since(begin)
		t.Logf("former %s after the change", took.Round(10*time.Millisecond))
		if took < settle || took > settle+3*time.Second {
			t.Errorf("former after %s, settle is %s", took, settle)
		}
		for kind := range kinds {
			if n := dns.asked(kind + ".one.internal AAAA"); n == 0 {
				t.Errorf("no AAAA query for %s", kind)
			}
		}
		nstest.Eventually(t, "an error in the status of each service", func() bool {
			return !slices.ContainsFunc(w.Status(), func(s Status) bool { return s.Err == nil })
		})
	})
}

// Deleted names and unusable lines of /etc/hosts keep the addresses. A usable line of
// /etc/hosts takes precedence over DNS.
func TestPrivilegedHosts(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const settle = time.Second
		const changed = "10.0.1.2 hosted.internal\nfd00::2 hosted.internal\n"
		dns := serveDNS(t, "10.0.1.1 hosted.internal\nfd00::1 hosted.internal\n", "options timeout:1 attempts:1\n", zone(map[string]string{
			"gone.internal": "10.0.0.1 fd00::1", "zoned.internal": "10.0.0.1", "zero.internal": "10.0.0.1", "moved.internal": "10.0.0.1",
		}))
		var c Config
		for _, name := range []string{"gone", "zoned", "zero", "moved", "hosted"} {
			c.Services = append(c.Services, Service{Name: name + ".internal", Port: 5432, Settle: settle, Interval: time.Second})
		}
		w := start(t, c, lookup)
		awaitAddresses(t, w, "gone.internal", "10.0.0.1 fd00::1", "")
		awaitAddresses(t, w, "zoned.internal", "10.0.0.1", "")
		awaitAddresses(t, w, "zero.internal", "10.0.0.1", "")
		awaitAddresses(t, w, "moved.internal", "10.0.0.1", "")
		awaitAddresses(t, w, "hosted.internal", "10.0.1.1 fd00::1", "")
		failures := func() float64 { return metric(t, w, "tcphup_service_lookup_failures_total") }
		if n := failures(); n != 0 {
			t.Errorf("%v failures", n)
		}
		dns.set(zone(map[string]string{"zoned.internal": "10.0.0.1", "zero.internal": "10.0.0.1", "moved.internal": "10.0.0.1"}))
		if err := os.WriteFile("/etc/hosts", []byte(changed+"fe80::5%lo zoned.internal\n0.0.0.0 zero.internal\n10.0.0.2 moved.internal\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		awaitAddresses(t, w, "hosted.internal", "10.0.1.2 fd00::2", "10.0.1.1 fd00::1")
		awaitAddresses(t, w, "moved.internal", "10.0.0.2", "10.0.0.1")
		for i := range w.Status() {
			s := w.Status()[i]
			// moved.internal has no IPv6 address.
			if (s.Name == "hosted.internal" || s.Name == "moved.internal") != (s.Err == nil) {
				t.Errorf("%s: %v", s.Name, s.Err)
			}
		}
		time.Sleep(3 * settle)
		wantAddresses(t, w, "gone.internal", "10.0.0.1 fd00::1", "")
		wantAddresses(t, w, "zoned.internal", "10.0.0.1", "")
		wantAddresses(t, w, "zero.internal", "10.0.0.1", "")
		if n := failures(); n == 0 {
			t.Error("no failure counted")
		}
	})
}

// awaitAddresses waits for the current and former addresses of a name.
func awaitAddresses(t *testing.T, w *Watcher, name, current, former string) {
	t.Helper()
	nstest.Eventually(t, fmt.Sprintf("%s has %q and had %q", name, current, former), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		c, f := w.watches[name].history.list()
		return texts(c) == current && texts(f) == former
	})
}
