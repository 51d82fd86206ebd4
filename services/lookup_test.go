package services

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// serveDNS runs a server of ours on loopback, for what no real one does on demand,
// and returns the resolver settings that lead to it.
func serveDNS(t *testing.T, handle dns.HandlerFunc) *dns.ClientConfig {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: listener}, {PacketConn: packets}} {
		started := make(chan struct{})
		s.Handler, s.NotifyStartedFunc = handle, func() { close(started) }
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-done
		})
	}
	return &dns.ClientConfig{
		Servers: []string{"127.0.0.1"}, Port: strconv.Itoa(listener.Addr().(*net.TCPAddr).Port),
		Ndots: 1, Timeout: 1, Attempts: 1, Search: []string{".", "one.internal", "two.internal"},
	}
}

// systemWith uses these settings in place of the files.
func systemWith(t *testing.T, config *dns.ClientConfig, hosts string) *system {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/hosts", []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSystem(dir+"/hosts", dir+"/resolv.conf")
	s.resolv.parse = func([]byte) (*dns.ClientConfig, error) { return config, nil }
	return s
}

// zone is what the server of TestLookup knows, in the form of a zone file; a line
// without a record is a name's answer code. A name in front of @ is a question
// that only TCP answers in full.
const zone = `
db.internal. 60 IN A 10.0.0.1
db.internal. 30 IN AAAA fd00::1
four.internal. 60 IN A 10.0.0.4
mapped.internal. 60 IN AAAA ::ffff:10.0.0.5
alias.internal. 5 IN CNAME four.internal.
alias.internal. 60 IN A 10.0.0.4
useless.internal. 60 IN A 0.0.0.0
short.two.internal. 60 IN A 10.0.0.6
half.internal. 60 IN A 10.0.0.7
_pg._tcp.internal. 10 IN SRV 1 1 5432 four.internal.
_pg._tcp.internal. 10 IN SRV 1 1 5432 db.internal.
_pg._tcp.internal. 10 IN SRV 1 1 5432 gone.internal.
_pg._tcp.internal. 10 IN SRV 1 1 6432 half.internal.
_none._tcp.internal. 10 IN SRV 0 0 0 .
_broken._tcp.internal. 10 IN SRV 1 1 1 four.internal.
_broken._tcp.internal. 10 IN SRV 1 1 1 servfail.internal.
big.internal. 60 IN A 10.0.0.8
`

func TestLookup(t *testing.T) {
	var records []dns.RR
	for line := range strings.Lines(strings.TrimSpace(zone)) {
		record, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, record)
	}
	config := serveDNS(t, func(w dns.ResponseWriter, question *dns.Msg) {
		m := new(dns.Msg).SetReply(question)
		q := question.Question[0]
		known := q.Name == "empty.internal."
		for _, r := range records {
			if r.Header().Name != q.Name {
				continue
			}
			known = true
			if r.Header().Rrtype == q.Qtype || r.Header().Rrtype == dns.TypeCNAME {
				m.Answer = append(m.Answer, r)
			}
		}
		tcp := w.RemoteAddr().Network() == "tcp"
		switch {
		case q.Name == "servfail.internal.", q.Name == "half.internal." && q.Qtype == dns.TypeAAAA:
			m.Rcode = dns.RcodeServerFailure
		case q.Name == "refused.internal.":
			m.Rcode = dns.RcodeRefused
		case q.Name == "silent.internal.":
			return
		case q.Name == "other.internal.":
			m.Question[0].Name = "another.internal."
		case q.Name == "big.internal." && !tcp, q.Name == "cut.internal.":
			m.Truncated, m.Answer = true, nil
		case !known:
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})
	s := systemWith(t, config, "10.1.0.1 hosted.internal Hosted # a comment\nfd01::1 hosted.internal\nnonsense\n0.0.0.0 db.internal\nfe80::1%eth0 linked\n")
	for _, tt := range []struct {
		name     string
		port     uint16
		addrs    string
		ttl      time.Duration
		reason   string // of the failure
		no4, no6 bool
	}{
		{name: "db.internal", addrs: "10.0.0.1 fd00::1", ttl: 30 * time.Second},
		{name: "DB.internal.", addrs: "10.0.0.1 fd00::1", ttl: 30 * time.Second},
		{name: "four.internal", addrs: "10.0.0.4", ttl: time.Minute},
		{name: "mapped.internal", addrs: "10.0.0.5", ttl: time.Minute},
		{name: "alias.internal", addrs: "10.0.0.4", ttl: 5 * time.Second},
		{name: "short", addrs: "10.0.0.6", ttl: time.Minute},
		{name: "big.internal", addrs: "10.0.0.8", ttl: time.Minute},
		{name: "half.internal", addrs: "10.0.0.7", ttl: time.Minute, no6: true, reason: "servfail"},
		{name: "hosted.internal", addrs: "10.1.0.1 fd01::1", ttl: -1},
		{name: "HOSTED.internal.", addrs: "10.1.0.1 fd01::1", ttl: -1},
		{name: "hosted", addrs: "10.1.0.1", ttl: -1},
		{name: "linked", addrs: "fe80::1", ttl: -1},
		{name: "_pg._tcp.internal", port: 5432, addrs: "10.0.0.1 10.0.0.4 fd00::1", ttl: 10 * time.Second},
		{name: "_pg._tcp.internal", port: 6432, reason: "servfail"},
		{name: "_pg._tcp.internal", port: 1, reason: "empty"},
		{name: "_none._tcp.internal", port: 1, reason: "empty"},
		{name: "_broken._tcp.internal", port: 1, reason: "servfail"},
		{name: "gone.internal", reason: "nxdomain"},
		{name: "nowhere", reason: "nxdomain"},
		{name: "empty.internal", reason: "empty"},
		{name: "useless.internal", reason: "empty"},
		{name: "servfail.internal", reason: "servfail", no4: true, no6: true},
		{name: "refused.internal", reason: "refused", no4: true, no6: true},
		{name: "silent.internal", reason: "timeout", no4: true, no6: true},
		{name: "other.internal", reason: "exchange", no4: true, no6: true},
		{name: "cut.internal", reason: "truncated", no4: true, no6: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := s.lookup(t.Context(), Service{Name: tt.name, Port: tt.port})
			var failed *lookupError
			reason := ""
			if errors.As(err, &failed) {
				reason = failed.reason
			}
			if reason != tt.reason || err != nil && reason == "" {
				t.Errorf("error %v, want reason %q", err, tt.reason)
			}
			if texts(a.addrs) != tt.addrs || len(a.addrs) > 0 && a.ttl != tt.ttl || a.no4 != tt.no4 || a.no6 != tt.no6 {
				t.Errorf("%+v, want %+v", a, tt)
			}
		})
	}
}

// Neither the end of ctx nor a server that is not there is waited for.
func TestLookupEnds(t *testing.T) {
	config := serveDNS(t, func(dns.ResponseWriter, *dns.Msg) {})
	config.Timeout = 30
	s := systemWith(t, config, "")
	ctx, cancel := context.WithCancel(t.Context())
	begin := time.Now()
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := s.lookup(ctx, Service{Name: "silent.internal"}); err == nil {
		t.Error("no error")
	}
	config.Port = "1"
	if _, err := s.lookup(t.Context(), Service{Name: "silent.internal"}); err == nil {
		t.Error("no error")
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

// A changed file is read again, one that vanishes counts as empty.
func TestSettingsChange(t *testing.T) {
	dir := t.TempDir()
	hosts := filepath.Join(dir, "hosts")
	s := newSystem(hosts, filepath.Join(dir, "resolv.conf"))
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	s.changed()
	for _, step := range []struct{ content, want string }{
		{"10.0.0.1 db.internal\n", "10.0.0.1"},
		{"10.0.0.2 db.internal\n", "10.0.0.2"},
	} {
		write(hosts, step.content)
		if !s.changed() || s.changed() {
			t.Error("the change was not noticed, or twice")
		}
		if a, err := s.lookup(t.Context(), Service{Name: "db.internal"}); err != nil || texts(a.addrs) != step.want {
			t.Errorf("%v, %v; want %s", a.addrs, err, step.want)
		}
	}
	write(filepath.Join(dir, "resolv.conf"), "nameserver 10.0.0.53\nnameserver 10.0.0.54\nsearch a b\noptions ndots:3 timeout:90 attempts:90\n")
	if !s.changed() {
		t.Error("a new resolv.conf was not noticed")
	}
	c, err := s.resolv.get()
	if err != nil || len(c.Servers) != 2 || c.Ndots != 3 || c.Timeout != 10 || c.Attempts != 5 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := os.Remove(hosts); err != nil {
		t.Fatal(err)
	}
	if !s.changed() {
		t.Error("a removed file was not noticed")
	}
	if all, err := s.hosts.get(); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	if err := os.Remove(filepath.Join(dir, "resolv.conf")); err != nil {
		t.Fatal(err)
	}
	if c, err := s.resolv.get(); err != nil || len(c.Servers) != 1 || c.Servers[0] != "127.0.0.1" {
		t.Errorf("without resolv.conf: %+v, %v", c, err)
	}
}
