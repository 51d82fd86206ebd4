package services

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// reply is a name server's response to one question.
type reply struct {
	code      dnsmessage.RCode
	records   []dnsmessage.ResourceBody
	truncated bool
	referral  bool
	dropped   bool // no response
	otherName bool // for another question
}

// handler returns the reply to a question; name is canonical, without the trailing dot.
type handler func(name string, kind dnsmessage.Type, tcp bool) reply

// dnsServer is a name server on port 53 of the loopback interface.
type dnsServer struct {
	mu     sync.Mutex
	handle handler
	seen   []string // questions such as "db.internal A"
}

// serveDNS starts a name server in the namespaces of the test and replaces /etc/hosts and
// the options of /etc/resolv.conf.
func serveDNS(t *testing.T, hosts, options string, handle handler) *dnsServer {
	t.Helper()
	s := &dnsServer{handle: handle}
	bind(t, "/etc/hosts", hosts)
	bind(t, "/etc/resolv.conf", "nameserver 127.0.0.1\n"+options)
	bind(t, "/etc/nsswitch.conf", "hosts: files dns\n")
	packets, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = packets.Close(), listener.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			if answer := s.answer(b[:n], false); answer != nil {
				_, _ = packets.WriteTo(answer, from)
			}
		}
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			var length [2]byte
			if _, err := io.ReadFull(conn, length[:]); err == nil {
				b := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(conn, b); err == nil {
					if answer := s.answer(b, true); answer != nil {
						_, _ = conn.Write(binary.BigEndian.AppendUint16(nil, uint16(len(answer))))
						_, _ = conn.Write(answer)
					}
				}
			}
			conn.Close()
		}
	}()
	return s
}

func (s *dnsServer) set(handle handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = handle
}

// asked returns how often the server received a question.
func (s *dnsServer) asked(question string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seen := range s.seen {
		if seen == question {
			n++
		}
	}
	return n
}

// answer returns the response to a message; nil without a response.
func (s *dnsServer) answer(b []byte, tcp bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(b) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")
	s.mu.Lock()
	s.seen = append(s.seen, name+" "+strings.TrimPrefix(q.Type.String(), "Type"))
	r := s.handle(name, q.Type, tcp)
	s.mu.Unlock()
	if r.dropped {
		return nil
	}
	response := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: m.ID, Response: true, RecursionAvailable: !r.referral, RCode: r.code, Truncated: r.truncated,
		},
		Questions: m.Questions,
	}
	if r.otherName {
		q.Name = dnsmessage.MustNewName("another.internal.")
		response.Questions = []dnsmessage.Question{q}
	}
	for _, body := range r.records {
		response.Answers = append(response.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}, Body: body,
		})
	}
	packed, err := response.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// records returns the A or AAAA records of space-separated addresses.
func records(kind dnsmessage.Type, text string) (list []dnsmessage.ResourceBody) {
	for _, word := range strings.Fields(text) {
		switch a := netip.MustParseAddr(word); {
		case a.Is4() && kind == dnsmessage.TypeA:
			list = append(list, &dnsmessage.AResource{A: a.As4()})
		case a.Is6() && kind == dnsmessage.TypeAAAA:
			list = append(list, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	return list
}

// zone returns a handler with these names and addresses; other names do not exist.
func zone(addresses map[string]string) handler {
	return func(name string, kind dnsmessage.Type, _ bool) reply {
		text, ok := addresses[name]
		if !ok {
			return reply{code: dnsmessage.RCodeNameError}
		}
		return reply{records: records(kind, text)}
	}
}

// bind mounts a file with this content over another file, in the test's mount namespace.
func bind(t *testing.T, over, content string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(over))
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, over, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}
